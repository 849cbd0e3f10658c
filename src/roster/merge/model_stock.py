"""Model Stock: how far to go from the base to the mean of a few models, from the angle between their differences.

Equation: t = n cos / (1 + (n - 1) cos) with cos the mean cosine of the differences' pairs; theta = theta_0 + t (mean -
theta_0). Of whole tensors, or of rows (`filter_wise`). As in mergekit. Source: Jang et al. 2024, arXiv 2403.19522.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from roster.merge.method import Method, gathered, shared
from roster.merge.spheres import Matrix, Spanned, row_dots


@dataclass
class ModelStock(Spanned):
    """Operands: the base, then two models or more."""

    filter_wise: bool = shared(False)
    _row: int = gathered()

    differences = True

    def unit(self, shape: tuple[int, ...]) -> int:
        """A row, where each has its own angle."""
        return max(shape[-1], 1) if self.filter_wise and shape else 1

    def begin(self, shape: tuple[int, ...]) -> None:
        """See `Kernel`."""
        super().begin(shape)
        self._row = self.unit(shape)
        if self.filter_wise:
            self._found = []

    def coefficients(self, gram: Matrix) -> Sequence[float]:
        """See the module."""
        n = len(gram)
        norms = [math.sqrt(gram[i, i]) for i in range(n)]
        cosines = [gram[i, j] / max(norms[i] * norms[j], 1e-6) for i, j in combinations(range(n), 2)]
        mean = sum(max(-1.0, min(1.0, each)) for each in cosines) / len(cosines)
        below = 1 + (n - 1) * mean
        t = 0.0 if abs(below) < 1e-6 else n * mean / below
        return [t / n] * n

    def write(self, x: Sequence[Tensor], start: int) -> Tensor:
        """See the module."""
        if not self.filter_wise:
            return super().write(x, start)
        base = x[0].view(-1, self._row)
        d = [each.sub_(x[0]).view(-1, self._row) for each in x[1:]]
        n = len(d)
        norms = [row_dots(each, each).sqrt_() for each in d]
        pairs = list(combinations(range(n), 2))
        cosines = [(row_dots(d[i], d[j]) / (norms[i] * norms[j]).clamp_(min=1e-6)).clamp_(-1, 1) for i, j in pairs]
        mean = sum(cosines[1:], start=cosines[0]) / len(pairs)
        below = 1 + (n - 1) * mean
        t = torch.where(below.abs() < 1e-6, 0.0, n * mean / below)
        total = d[0]
        for each in d[1:]:
            total.add_(each)
        return (base + total * (t / n)).view(-1)


METHOD = Method("model_stock", "Model Stock", "Jang et al. 2024, arXiv 2403.19522", ModelStock, fewest=2)
