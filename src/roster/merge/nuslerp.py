"""NuSLERP: SLERP between two models by their weights, or between their differences to a base.

Equation: t = w_1 / (w_0 + w_1), then SLERP, of whole tensors (`nuslerp_flatten`, the default), of rows
(`nuslerp_flatten: false`), or of columns (`nuslerp_row_wise: true` besides, mergekit's name). As in mergekit.
Source: mergekit (Goddard et al. 2024, arXiv 2403.13257).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from roster.merge.method import Method, PerModel, gathered, per_model, shared
from roster.merge.slerp import arc
from roster.merge.spheres import row_dots
from roster.weights import Gram, Kernel


@dataclass
class NuSlerp(Kernel):
    """Operands: the base where there is one, then two models."""

    weight: PerModel = per_model()
    nuslerp_flatten: bool = shared(True)
    nuslerp_row_wise: bool = shared(False)
    _shape: tuple[int, ...] = gathered()
    _gram: Gram | None = gathered()
    _ends: tuple[float, float] | None = gathered()

    @property
    def t(self) -> float:
        """The share of the second model."""
        total = sum(self.weight)
        return 0.5 if abs(total) < 1e-6 else self.weight[1] / total

    def unit(self, shape: tuple[int, ...]) -> int:
        """A row; the whole matrix, where columns are turned."""
        if self.nuslerp_flatten or not shape:
            return 1
        return max(math.prod(shape), 1) if self.nuslerp_row_wise else max(shape[-1], 1)

    def scratch(self, shape: tuple[int, ...]) -> int:
        """Columns need the whole matrix, four times."""
        return 16 * math.prod(shape) if self.nuslerp_row_wise and not self.nuslerp_flatten else 0

    def begin(self, shape: tuple[int, ...]) -> None:
        """See `Kernel`."""
        self._shape, self._gram, self._ends = shape, None, None

    def wants_look(self) -> bool:
        """One look at whole tensors; rows are turned as they come."""
        return self.nuslerp_flatten and self._ends is None

    def look(self, x: Sequence[Tensor], start: int) -> None:
        """See `Kernel`."""
        self._gram = self._gram or Gram(2)
        self._gram.add([x[1] - x[0], x[2] - x[0]] if len(x) == 3 else x)

    def end_look(self) -> None:
        """See `Kernel`."""
        self._ends = (1 - self.t, self.t)
        if self._gram is not None:
            g = self._gram.matrix()
            norms = [max(math.sqrt(g[i, i]), 1e-7) for i in (0, 1)]
            cosine = max(-1.0, min(1.0, g[0, 1].item() / (norms[0] * norms[1])))
            if 1 - cosine**2 > 1e-16:
                self._ends = arc(self.t, math.acos(cosine))

    def write(self, x: Sequence[Tensor], start: int) -> Tensor:
        """See the module."""
        base = x[0] if len(x) == 3 else None
        ends = [each.sub_(base) for each in x[1:]] if base is not None else list(x)
        mixed = (
            self._rows(ends) if self._ends is None else ends[0].mul_(self._ends[0]).add_(ends[1], alpha=self._ends[1])
        )
        return mixed.add_(base) if base is not None else mixed

    def end(self) -> dict[str, Any]:
        """See `Kernel`."""
        self._gram = None
        return {}

    def _rows(self, ends: Sequence[Tensor]) -> Tensor:
        columns = self.nuslerp_row_wise and len(self._shape) > 1
        width = self._shape[-1] if self._shape else 1
        a, b = (each.view(self._shape).transpose(0, -1) if columns else each.view(-1, width) for each in ends)
        shape = a.shape
        a, b = a.reshape(-1, shape[-1]), b.reshape(-1, shape[-1])
        norms = [row_dots(each, each).sqrt_().clamp_(min=1e-7) for each in (a, b)]
        cosine = (row_dots(a, b) / norms[0] / norms[1]).clamp_(-1, 1)
        straight = 1 - cosine.square() <= 1e-16
        angle = torch.where(straight, 1.0, cosine.acos())
        sine = angle.sin()
        first = torch.where(straight, 1 - self.t, ((1 - self.t) * angle).sin() / sine)
        second = torch.where(straight, self.t, (self.t * angle).sin() / sine)
        mixed = (first * a + second * b).view(shape)
        return (mixed.transpose(0, -1) if columns else mixed).reshape(-1)


METHOD = Method("nuslerp", "NuSLERP", "Goddard et al. 2024, arXiv 2403.13257", NuSlerp, "optional", 2, 2)
