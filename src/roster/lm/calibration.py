"""Whether estimates of quality can be believed: Brier score, expected calibration error, AUROC.

Every function takes flat arrays of equal length: what was expected, and what came.
"""

from __future__ import annotations

import numpy as np

from roster.lm.records import Matrix


def brier(expected: Matrix, score: Matrix) -> float:
    """Mean squared difference; 0 is perfect, 0.25 is what "always one half" gets on right-or-wrong answers."""
    return float(np.mean((expected - score) ** 2))


def ece(expected: Matrix, score: Matrix, bins: int = 15) -> float:
    """Mean distance between expectation and outcome within bins of equal width (Guo et al., 2017), weighted by size."""
    at = np.minimum((expected * bins).astype(int), bins - 1)
    count = np.bincount(at, minlength=bins)
    gap = np.abs(np.bincount(at, expected, bins) - np.bincount(at, score, bins))
    return float((gap / count.sum()).sum()) if count.sum() else float("nan")


def auroc(expected: Matrix, right: Matrix) -> float:
    """Chance that a right answer was expected to be better than a wrong one, ties as half; NaN with one kind only."""
    is_right = np.asarray(right) > 0.5
    good, bad = int(is_right.sum()), int((~is_right).sum())
    if not good or not bad:
        return float("nan")
    values, at = np.unique(expected, return_inverse=True)
    upto = np.cumsum(np.bincount(at, minlength=len(values)))
    rank = upto[at] - (np.bincount(at, minlength=len(values))[at] - 1) / 2
    return float((rank[is_right].sum() - good * (good + 1) / 2) / (good * bad))
