"""What paired runs say of a claim: shown, refuted or undecided, and why.

Intervals are those of `roster.arena.paired`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evidence.protocol.declaration import Declaration
from roster.arena.paired import MOST_SEEDS, Gain, Word, gain


@dataclass(frozen=True)
class Judgement:
    """What a check's runs say.

    Attributes:
        verdict: of the claim.
        reason: in words.
        gains: by "judged", "ablation", "null" and "control".
        broken: its null is no null or its control is not seen, so that it is no evidence.
    """

    verdict: Word
    reason: str
    gains: Mapping[str, Gain]
    broken: bool = False


def judge(declaration: Declaration, runs: Mapping[str, Sequence[float]], again: Sequence[float]) -> Judgement:
    """The verdict on a declaration.

    Args:
        declaration: what was promised.
        runs: statistics by contender, in the order of the seeds.
        again: the method's once more, with other luck.
    """
    pairs, better, effect = declaration.pairs, declaration.statistic.better, declaration.statistic.effect
    done = min([*(len(values) for values in runs.values()), len(again)])
    if done < declaration.seeds:
        return Judgement("undecided", f"not run to the end: {done} of {declaration.seeds} seeds", {})
    if not all(math.isfinite(value) for values in [*runs.values(), again] for value in values):
        return Judgement("undecided", "some run gave no number", {}, broken=True)
    gains = {
        "judged": gain(runs[pairs.method], runs[pairs.baseline], better),
        "ablation": gain(runs[pairs.method], runs[pairs.ablation], better),
        "null": gain(runs[pairs.method], again, better),
        "control": gain(runs[pairs.planted], runs[pairs.against], better),
    }
    fault = _fault(declaration, gains)
    if fault:
        return Judgement("undecided", f"broken, no evidence: {fault}", gains, broken=True)
    return Judgement(*_claim(gains, declaration.threshold, effect), gains)


def _fault(declaration: Declaration, gains: Mapping[str, Gain]) -> str:
    """Why the check cannot be trusted, or ""."""
    effect, null = declaration.statistic.effect, gains["null"]
    if null.low > effect or null.high < -effect:
        return "the method is told from itself"
    wanted: Word = "shown" if declaration.statistic.asks == "better" else "refuted"
    seen = gains["control"].against(declaration.threshold)
    return "" if seen == wanted else f"the planted effect is {seen}, not {wanted}"


def _claim(gains: Mapping[str, Gain], threshold: float, effect: float) -> tuple[Word, str]:
    word = gains["judged"].against(threshold)
    if word == "undecided":
        return word, f"the interval holds both; {_needed(gains['judged'], threshold)}"
    if word == "refuted":
        return word, "below the smallest effect that counts" if threshold > 0 else "worse by more than is allowed"
    part = gains["ablation"].against(effect)
    if part == "shown":
        return "shown", "beyond the smallest effect, and lost without the part that the source credits"
    if part == "refuted":
        return "refuted", "the difference is there, but stays without the part that the source credits"
    return "undecided", f"the difference is there, its cause is not settled; {_needed(gains['ablation'], effect)}"


def _needed(found: Gain, threshold: float) -> str:
    count = found.seeds_to_settle(threshold)
    return f"more than {MOST_SEEDS} seeds would settle it" if count is None else f"{count} seeds would settle it"
