"""How much better one contender is than another, over paired runs or the same prompts.

The interval is Student's over the paired differences (as of `scipy.stats.ttest_rel`), from 20 pairs on the
bias-corrected and accelerated bootstrap's (`scipy.stats.bootstrap`); both hold 95 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats  # type: ignore[import-untyped,unused-ignore]

CONFIDENCE = 0.95
BOOTSTRAP_FROM = 20
MOST_SEEDS = 100_000
_POWERS = math.ceil(math.log(MOST_SEEDS / 2) / math.log(1.006))

Word = Literal["shown", "refuted", "undecided"]
Apart = Literal["better", "worse", "alike", "undecided"]


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

    def apart(self, equal: float) -> Apart:
        """Which of the two is better: the interval lies on one side of zero, or within `equal` of it, or neither."""
        if self.low > 0 or self.high < 0:
            return "better" if self.low > 0 else "worse"
        return "alike" if -equal < self.low and self.high < equal else "undecided"

    def seeds_to_tell(self, equal: float) -> int | None:
        """How many pairs would tell them apart or call them alike, if mean and spread stayed; None when none would."""
        counts = [self.seeds_to_settle(0.0)]
        if abs(self.mean) < equal:
            counts.append(self.seeds_to_settle(math.copysign(equal, self.mean)))
        known = [count for count in counts if count is not None]
        return min(known) if known else None


def gain(ours: Sequence[float], theirs: Sequence[float], better: Literal["lower", "higher"] = "higher") -> Gain:
    """The gain of `ours` over `theirs`, pair by pair; one pair alone has no bounds."""
    sign = -1.0 if better == "lower" else 1.0
    difference_N = sign * (np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float))
    mean, count = float(difference_N.mean()), len(difference_N)
    if count < 2:
        return Gain(mean, -math.inf, math.inf, math.nan, count)
    spread = float(difference_N.std(ddof=1))
    if spread <= 1e-12 * max(1.0, abs(mean)):  # the same difference every time: rounding is no spread
        return Gain(mean, mean, mean, 0.0, count)
    if count < BOOTSTRAP_FROM:
        low, high = stats.ttest_1samp(difference_N, 0.0).confidence_interval(CONFIDENCE)
    else:
        drawn = stats.bootstrap((difference_N,), np.mean, confidence_level=CONFIDENCE, method="BCa", rng=0)
        low, high = drawn.confidence_interval
    return Gain(mean, float(low), float(high), spread, count)
