"""A quality floor with a confidence: the cheapest setting of a dial that is shown to keep it, not one that happened to.

Learn then test: for each setting, the hypothesis "its mean score is below the floor" is tested by the p-value of
Hoeffding and Bentkus, which holds for any scores in [0, 1] and any number of prompts. Settings are tested one after the
other from the generous end of the dial to the frugal one, an order that no score has a part in, until one cannot be
rejected; so no correction for trying many is due. Whatever is rejected keeps the floor, all of it at once, with the
confidence asked for: over draws of the validation prompts from the traffic that the router will meet.

What it needs: scores that neither the estimator nor the order has seen, and settings without a coin.

Source: Angelopoulos, Bates, Candès, Jordan, Lei, 2021, "Learn then Test: Calibrating Predictive Algorithms to Achieve
Risk Control", arXiv:2110.01052 (fixed-sequence testing); Bates, Angelopoulos, Lei, Malik, Jordan, 2021,
"Distribution-Free, Risk-Controlling Prediction Sets", arXiv:2101.02703 (the p-value). Here the risk is 1 - score.

Shape legend: L settings from frugal to generous, N prompts.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from roster.errors import RosterError
from roster.lm.records import Matrix


def p_value(score_N: Matrix, floor: float) -> float:
    """How probable so good a mean of N scores is at most, where the true mean is below the floor.

    Args:
        score_N: independent, in [0, 1].
        floor: strictly between 0 and 1.
    """
    from scipy.stats import binom  # type: ignore[import-untyped]

    count, risk, most = len(score_N), 1 - float(score_N.mean()), 1 - floor
    if risk >= most:
        return 1.0
    # Rounding up by a hair would cost a whole answer.
    bentkus = math.e * float(binom.cdf(math.ceil(count * risk - 1e-9), count, most))
    return min(1.0, math.exp(-count * _distance(risk, most)), bentkus)


def _distance(a: float, b: float) -> float:
    """Kullback-Leibler distance of two coins."""
    first = a * math.log(a / b) if a > 0 else 0.0
    return first + ((1 - a) * math.log((1 - a) / (1 - b)) if a < 1 else 0.0)


def certified(score_LN: Matrix, floor: float, confidence: float) -> NDArray[np.int64]:
    """The settings that are shown to keep the floor, the most generous first; none where the first is not.

    Args:
        score_LN: what each setting gave on validation prompts, from frugal to generous.
        floor, confidence: both strictly between 0 and 1.

    Raises:
        RosterError: they are not.
    """
    for what, value in (("quality floor", floor), ("confidence", confidence)):
        if not 0 < value < 1:
            raise RosterError(f"a {what} to be shown lies between 0 and 1, not at {value:g}")
    kept = []
    for setting in range(len(score_LN) - 1, -1, -1):
        if p_value(score_LN[setting], floor) > 1 - confidence:
            break
        kept.append(setting)
    return np.array(kept, dtype=np.int64)


def prompts_needed(floor: float, confidence: float, quality: float) -> int:
    """About how many prompts show that a setting of such a quality keeps the floor; to tell a user what is missing."""
    return math.ceil(-math.log(1 - confidence) / max(_distance(1 - quality, 1 - floor), 1e-12))
