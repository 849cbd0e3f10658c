"""Karcher mean: the point of the sphere whose squared arcs to the models' directions are least, at their mean norm.

Found by gradient steps on the sphere from the normalized mean, `max_iter` at most. Every step stays in the span of the
models, so the steps are taken on coefficients and the matrix of inner products, and the tensors are read twice in all.
The models weigh the same. Source: Karcher 1977; as in mergekit (arXiv 2603.04972).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from roster.merge.method import Method, shared
from roster.merge.spheres import Matrix, Spanned


@dataclass
class Karcher(Spanned):
    """Operands: the models (a base, where one is given, is one of them)."""

    max_iter: int = shared(10, 1, 10_000)
    tol: float = shared(1e-5, 0.0, 1.0)

    def coefficients(self, gram: Matrix) -> Sequence[float]:
        """See the module."""
        norms = np.sqrt(np.diag(gram))
        valid = norms > self.tol
        if len(norms) == 1 or not valid.any():
            return [1.0] * len(norms) if len(norms) == 1 else [0.0] * len(norms)
        scale = norms.mean()
        unit = gram[np.ix_(valid, valid)] / np.outer(norms[valid], norms[valid])
        found = np.zeros(len(norms))
        found[valid] = scale * self._mean(unit) / norms[valid]
        return [float(each) for each in found]

    def _mean(self, unit: Matrix) -> Matrix:
        """Coefficients of the mean direction in the unit vectors, whose inner products are given."""
        n = len(unit)
        c = np.full(n, 1 / n)
        length = _norm(c, unit)
        c = np.eye(n)[0] if length < self.tol else c / length
        for _ in range(self.max_iter):
            cosines = np.clip(unit @ c, -1, 1)
            angles = np.arccos(cosines)
            far = angles >= self.tol
            pull = np.where(far, angles / np.where(far, np.sin(angles), 1), 0) / n
            tangent = pull - c * float(pull @ cosines)
            step = _norm(tangent, unit)
            if step < self.tol:
                break
            c = math.cos(step) * c + math.sin(step) * tangent / step
            c /= max(_norm(c, unit), self.tol)
        return c


def _norm(c: Matrix, unit: Matrix) -> float:
    return math.sqrt(max(float(c @ unit @ c), 0.0))


METHOD = Method("karcher", "Karcher mean", "Karcher 1977; mergekit, arXiv 2603.04972", Karcher, base="member", fewest=2)
