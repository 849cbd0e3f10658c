"""What paired runs say of a claim: shown, refuted or undecided, and why.

The interval is Student's over the paired differences (as of `scipy.stats.ttest_rel`), from 20 pairs on the
bias-corrected and accelerated bootstrap's (`scipy.stats.bootstrap`); both hold 95 %.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats  # type: ignore[import-untyped,unused-ignore]

from evidence.protocol.declaration import Declaration

CONFIDENCE = 0.95
BOOTSTRAP_FROM = 20
MOST_SEEDS = 100_000
_POWERS = math.ceil(math.log(MOST_SEEDS / 2) / math.log(1.006))

Word = Literal["shown", "refuted", "undecided"]


@dataclass(frozen=True)
class Gain:
    """How much better one contender is than another, over paired runs.

    Attributes:
        mean, low, high: mean and interval; above zero is better.
        spread: standard deviation of the differences.
        count: of pairs.
    """

    mean: float
    low: float
    high: float
    spread: float
    count: int

    def against(self, threshold: float) -> Word:
        """Whether the gain exceeds a threshold: the whole interval, none of it, or some."""
        if self.low > threshold:
            return "shown"
        return "refuted" if self.high < threshold else "undecided"

    def seeds_to_settle(self, threshold: float) -> int | None:
        """How many pairs would settle it, if mean and spread stayed; None when not even `MOST_SEEDS` would."""
        away = abs(self.mean - threshold)
        for count in sorted({round(2 * 1.006**power) for power in range(_POWERS)}):
            if float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * self.spread / math.sqrt(count) < away:
                return count
        return None


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


def gain(ours: Sequence[float], theirs: Sequence[float], better: Literal["lower", "higher"]) -> Gain:
    """The gain of `ours` over `theirs`, run by run."""
    sign = -1.0 if better == "lower" else 1.0
    difference_N = sign * (np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float))
    mean, spread, count = float(difference_N.mean()), float(difference_N.std(ddof=1)), len(difference_N)
    if spread <= 1e-12 * max(1.0, abs(mean)):  # the same difference every time: rounding is no spread
        return Gain(mean, mean, mean, 0.0, count)
    if count < BOOTSTRAP_FROM:
        low, high = stats.ttest_1samp(difference_N, 0.0).confidence_interval(CONFIDENCE)
    else:
        drawn = stats.bootstrap((difference_N,), np.mean, confidence_level=CONFIDENCE, method="BCa", rng=0)
        low, high = drawn.confidence_interval
    return Gain(mean, float(low), float(high), spread, count)


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
