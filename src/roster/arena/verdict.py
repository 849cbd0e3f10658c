"""What a comparison says in words: first what routing gains over what the same folder gives without it.

Then how far the oracle is, and what training on everybody's data would give. Nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from roster.arena.paired import gain

_OURS = "auto"
"""The router that is meant when nobody names one."""


@dataclass(frozen=True)
class Standing:
    """One way to use a folder, and how it answered.

    Attributes:
        name, label: as in tables.
        kind: "recipe", "baseline" (the same folder without routing), "reference" (needs more than the folder) or
            "bound" (is told what a router must find out).
        scores: of each prompt, 0 to 1; the same prompts for all.
    """

    name: str
    label: str
    kind: str
    scores: Sequence[float]

    @property
    def mean(self) -> float:
        """Mean score."""
        return sum(self.scores) / len(self.scores)


def verdict(standings: Sequence[Standing], on: str = "") -> list[str]:
    """Sentences, the first one the answer.

    Args:
        standings: all ways that were measured, on the same prompts.
        on: which prompts these are, for a reader: " on known wordings".
    """
    ours = _best(standings, "recipe", prefer=_OURS)
    theirs = _best(standings, "baseline")
    if ours is None or theirs is None:
        return ["Only baselines were run, so there is nothing to say about routing."]
    sentences = [_gain(ours, theirs, on)]
    bound = _best(standings, "bound")
    if bound is not None and bound.mean > 0:
        reached = f"{ours.label} reaches {100 * ours.mean / bound.mean:.0f} % of that, {_difference(bound, ours)}"
        sentences.append(f"The bound, {bound.label} ({_share(bound)}), is told what a router must find out: {reached}.")
    reference = _best(standings, "reference")
    if reference is not None:
        more = f"{reference.label}, which needs everybody's data and a new training for every new skill"
        sentences.append(f"{more}, answers {_share(reference)} right: {_difference(reference, ours)} to {ours.label}.")
    return sentences


def _best(standings: Sequence[Standing], kind: str, prefer: str = "") -> Standing | None:
    of_kind = [each for each in standings if each.kind == kind]
    preferred = [each for each in of_kind if each.name == prefer]
    return max(preferred or of_kind, key=lambda each: each.mean, default=None)


def _gain(ours: Standing, theirs: Standing, on: str) -> str:
    found = gain(ours.scores, theirs.scores)
    mean, low, high = found.mean, max(found.low, -1.0), min(found.high, 1.0)  # Student's may go beyond what can be
    said = f"{ours.label} answers {_share(ours)} right{on}, {theirs.label} {_share(theirs)}"
    interval = f"95 % interval {100 * low:+.1f} to {100 * high:+.1f}, {len(ours.scores)} prompts"
    best = "the best that the same folder gives without it"
    if low > 0:
        return f"Routing gains {100 * mean:.1f} points over {best}: {said} ({interval})."
    if high < 0:
        return f"Routing loses {-100 * mean:.1f} points to {best}: {said} ({interval})."
    return f"Routing cannot be told from {best}: {said} (a difference of {100 * mean:+.1f} points, {interval})."


def _difference(above: Standing, below: Standing) -> str:
    found = gain(above.scores, below.scores)
    return f"a distance of {100 * found.mean:.1f} points ({100 * found.low:+.1f} to {100 * found.high:+.1f})"


def _share(each: Standing) -> str:
    return f"{100 * each.mean:.1f} %"
