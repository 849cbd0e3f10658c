"""Records of a log with gaps in which every cell is a doubly robust estimate: reports and tuning read them like others.

A log is refused where it cannot carry the comparison. For each model, a policy that always asks it must have an
effective sample of `LEAST_EFFECTIVE` prompts, and the log must ask it often enough on `LEAST_OVERLAP` of the prompts:
so often that no prompt counts for more than 1 / `LEAST_EFFECTIVE` of all (larger weights are cut). The policies that
are judged are held to the same effective sample, and to `LEAST_CHOICES` of their choices.

Assumed, and not to be seen in any log: who was asked depended on the prompt's text alone (or the propensities were
recorded), and so did which answers were scored.

Shape legend: N prompts, A those of training and the N, M models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roster.errors import RosterError
from roster.lm.offpolicy.estimators import Drawn, Support, doubly_robust_scores, support
from roster.lm.offpolicy.nuisance import cross_fitted
from roster.lm.records import Matrix, Records

LEAST_EFFECTIVE = 20
LEAST_OVERLAP = 0.5
LEAST_CHOICES = 0.8


@dataclass(frozen=True, eq=False)
class Counterfactual(Records):
    """Records whose `score_NM` and `cost_NM` are right on average only.

    Attributes:
        observed_NM: the scores that are in the log; NaN for others.
        weight_NM: what each cell counts for a policy that is sure to ask its model.
        supported_NM: 1 where the log asks the model often enough.
    """

    observed_NM: Matrix = field(default_factory=lambda: np.empty((0, 0)))
    weight_NM: Matrix = field(default_factory=lambda: np.empty((0, 0)))
    supported_NM: Matrix = field(default_factory=lambda: np.empty((0, 0)))

    def matrices(self) -> dict[str, NDArray[Any]]:
        """See `Records.matrices`."""
        own = {name: getattr(self, name) for name in ("observed_NM", "weight_NM", "supported_NM")}
        return super().matrices() | own

    @property
    def measured_NM(self) -> Matrix:
        """See `Records.measured_NM`."""
        return self.observed_NM


def one_each(records: Records) -> bool:
    """Whether this is a log of live traffic: most prompts were answered by one model, though there are several."""
    answered_N = np.isfinite(records.score_NM).sum(1)
    answered_N = answered_N[answered_N > 0]
    return len(records.models) > 1 and len(answered_N) > 0 and bool(np.median(answered_N) == 1)


def counterfactual(part: Records, rest: Records, name: str, seed: int = 0) -> Counterfactual:
    """Fills the gaps of one part of a log.

    Args:
        part: to be judged.
        rest: what may be learned from beside it.
        name: of the part, for messages.
        seed: of the folds.

    Raises:
        RosterError: the overlap is missing; which models it is missing for.
    """
    known_N = np.asarray((np.isfinite(part.score_NM) & np.isfinite(part.cost_NM)).any(1))
    kept = part.rows(known_N)
    seen_NM = np.isfinite(kept.score_NM) & np.isfinite(kept.cost_NM)
    single = one_each(part)
    calls_AM = np.vstack([calls_of(rest), np.where(seen_NM, calls_of(kept), 0.0)])
    _refuse_rare(kept, calls_AM, seen_NM, name)
    found = cross_fitted(kept, rest, calls_AM, single, seed)
    asked_NM = calls_AM[len(rest) :]
    share_NM = np.asarray(asked_NM / asked_NM.sum(1, keepdims=True) if single else (asked_NM > 0) * 1.0)
    drawn = Drawn(share_NM, found.chance_NM, max(len(kept) / LEAST_EFFECTIVE, 1.0))
    _refuse_apart(kept, drawn, name)
    score_NM, cost_NM = (np.where(seen_NM, each, np.nan) for each in (kept.score_NM, kept.cost_NM))
    notes = [*kept.notes, _said(kept, part, name, single)]
    given: dict[str, Any] = {each: getattr(kept, each) for each in Records.__dataclass_fields__}
    return Counterfactual(
        **given
        | {
            "score_NM": doubly_robust_scores(score_NM, drawn, found.score_NM),
            "cost_NM": doubly_robust_scores(cost_NM, drawn, found.cost_NM),
            "notes": tuple(notes),
        },
        observed_NM=score_NM,
        weight_NM=drawn.weight_NM,
        supported_NM=drawn.supported_NM,
    )


def calls_of(records: Records) -> Matrix:
    """How often each model was asked, 0 for never; what has a score was asked once unless the log says how often."""
    if records.logged is not None:
        return np.nan_to_num(records.logged.calls_NM)
    return np.isfinite(records.score_NM).astype(float)


def checked(found: Support, what: str) -> Support:
    """The support, when it is enough; RosterError otherwise."""
    if not enough(found):
        raise RosterError(f"the log does not carry {what}: {worded(found)}")
    return found


def worded(found: Support) -> str:
    """The support in words."""
    return (
        f"an effective sample of {found.effective:.0f} of {found.prompts} prompts (at least {LEAST_EFFECTIVE}), "
        f"{found.overlap:.0%} of its choices made by the log too (at least {LEAST_CHOICES:.0%}), heaviest weight "
        f"{found.heaviest:.1f}"
    )


def enough(found: Support) -> bool:
    """Whether a policy can be judged by what the log has of its choices."""
    return found.effective >= LEAST_EFFECTIVE and found.overlap >= LEAST_CHOICES


def _refuse_rare(part: Records, calls_AM: Matrix, seen_NM: NDArray[np.bool_], name: str) -> None:
    if not len(part):
        raise RosterError(f"records {part.name!r}: no call of the {name} has a score and a cost")
    asked_M, everywhere_M = seen_NM.sum(0), (calls_AM > 0).sum(0)
    rare = {
        model: f"{asked_M[m]} prompts of the {name} with its score and cost"
        for m, model in enumerate(part.models)
        if min(asked_M[m], everywhere_M[m]) < LEAST_EFFECTIVE
    }
    _refuse(part, rare, f"at least {LEAST_EFFECTIVE} are needed")


def _refuse_apart(part: Records, drawn: Drawn, name: str) -> None:
    apart = {}
    for m, model in enumerate(part.models):
        found = support(drawn.weight_NM[:, m], drawn.supported_NM[:, m])
        if found.effective < LEAST_EFFECTIVE or found.overlap < LEAST_OVERLAP:
            apart[model] = (
                f"effective sample {found.effective:.0f} of {found.prompts} prompts of the {name}, asked often enough "
                f"on {found.overlap:.0%} of them"
            )
    _refuse(part, apart, f"at least {LEAST_EFFECTIVE} and {LEAST_OVERLAP:.0%} are needed")


def _refuse(part: Records, reasons: Mapping[str, str], wanted: str) -> None:
    if reasons:
        shown = "; ".join(f"{model}: {reason}" for model, reason in list(reasons.items())[:5])
        raise RosterError(
            f"records {part.name!r}: the log has too little overlap to compare all models ({shown}; {wanted}): leave "
            "those models out (--without), or log some traffic that is routed at random"
        )


def _said(kept: Records, part: Records, name: str, single: bool) -> str:
    recorded = kept.logged is not None and bool(np.isfinite(kept.logged.propensity_NM).any())
    source = "recorded propensities" if recorded else "a logging policy estimated from the prompts"
    how = "one model answered each prompt" if single else "some models answered each prompt"
    note = f"{how} of the {name}: figures are doubly robust estimates from {source}"
    dropped = len(part) - len(kept)
    return note + (f"; {dropped} of {len(part)} prompts without a score or cost were left out" if dropped else "")
