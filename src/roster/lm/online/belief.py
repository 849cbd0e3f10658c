"""Belief: Bayesian linear regression of a score on features, one observation at a time.

With A = l I + sum f f' and b = sum f (s - p) over the scores s that were seen, and p the prior guess,

    mean = p + f' A^-1 b        width = sqrt(f' A^-1 f)

The inverse is kept and updated by the Sherman-Morrison formula. Shape legend: D features.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


class Belief:
    """What is known of one linear function.

    Args:
        size: D.
        ridge: l, how strongly the prior guess holds.
        prior: p, the score expected before anything was seen.
    """

    def __init__(self, size: int, ridge: float = 1.0, prior: float = 0.0):
        self.prior = prior
        self.inverse_DD: Vector = np.eye(size) / ridge
        self.target_D: Vector = np.zeros(size)

    def mean(self, f_D: Vector) -> Vector:
        """The expected score of features [..., D], [...]."""
        return self.prior + f_D @ (self.inverse_DD @ self.target_D)

    def width(self, f_D: Vector) -> Vector:
        """The standard deviation of that expectation, for noise of deviation one, [...]."""
        width: Vector = np.sqrt(np.maximum(0.0, ((f_D @ self.inverse_DD) * f_D).sum(-1)))
        return width

    def observe(self, f_D: Vector, score: float) -> None:
        """One more score for features [D]."""
        along_D = self.inverse_DD @ f_D
        # A new array, not in place: whoever holds the old one keeps what it was given.
        self.inverse_DD = self.inverse_DD - np.outer(along_D, along_D) / (1.0 + f_D @ along_D)
        self.target_D = self.target_D + f_D * (score - self.prior)
