"""What task arithmetic and its relatives share: differences to the base, thinned, weighted, and added back.

Equation: theta = theta_0 + lambda * C_i w_i S(theta_i - theta_0), with S a way to thin out (each method's own) and C
either the sum, or TIES' election: per element the sign of the weighted sum wins, the models that agree are added.
`normalize` divides by the weights of those that were added; `rescale` makes each thinned difference as large as it was.

Sources: Ilharco et al. 2023, arXiv 2212.04089 (task arithmetic); Yadav et al. 2023, arXiv 2306.01708 (election).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from roster.merge.method import PerModel, gathered, per_model, shared
from roster.weights import BLOCK, Kernel


@dataclass
class TaskVectors(Kernel):
    """Operands: the base, then the models.

    A method overrides `thin`, and, where it must know something of the whole difference first, `measures`, `measure`
    and `end_measure`.
    """

    weight: PerModel = per_model()
    normalize: bool = shared(False)
    lambda_: float = shared(1.0, name="lambda")
    tensor: str = ""
    _sums: list[list[float]] | None = gathered()
    _block: int = gathered()
    _kept: list[list[int]] | None = gathered()

    elects: ClassVar[bool] = False

    def begin(self, shape: tuple[int, ...]) -> None:
        """See `Kernel`."""
        self._sums, self._kept = None, None
        unit = self.unit(shape)
        self._block = unit if unit > 1 else BLOCK

    def measures(self) -> bool:
        """Whether `thin` needs another look at the differences."""
        return False

    def measure(self, model: int, d: Tensor, start: int) -> None:
        """One piece of such a look: one model's difference; must not change it."""

    def end_measure(self) -> None:
        """The look is over."""

    def thin(self, model: int, d: Tensor, start: int) -> Tensor:
        """One piece of a difference thinned out; may change it."""
        return d

    def matches_norms(self) -> bool:
        """Whether a thinned difference is scaled to the sum of magnitudes that it had before."""
        return False

    def wants_look(self) -> bool:
        """First what `thin` needs, then the norms before and after it."""
        return self.measures() or (self.matches_norms() and self._sums is None)

    def look(self, x: Sequence[Tensor], start: int) -> None:
        """See `Kernel`."""
        measuring = self.measures()
        for model, each in enumerate(x[1:]):
            d = each - x[0]
            if measuring:
                self.measure(model, d, start)
            else:
                self._add_norms(model, d, start)

    def end_look(self) -> None:
        """See `Kernel`."""
        if self.measures():
            self.end_measure()

    def write(self, x: Sequence[Tensor], start: int) -> Tensor:
        """See the module."""
        base = x[0]
        thinned = [self._thinned(model, each.sub_(base), start) for model, each in enumerate(x[1:])]
        factors = [weight * self._norm_factor(model) for model, weight in enumerate(self.weight)]
        mixed = self._elect(thinned, factors) if self.elects else self._add(thinned, factors)
        return mixed.mul_(self.lambda_).add_(base) if self.lambda_ != 1 else mixed.add_(base)

    def end(self) -> dict[str, Any]:
        """`kept`, where it is asked for: the share of each model's changed entries that were not thinned out."""
        kept, self._sums, self._kept = self._kept, None, None
        return {"kept": [after / before if before else None for before, after in kept]} if kept is not None else {}

    def _thinned(self, model: int, d: Tensor, start: int) -> Tensor:
        if not self.counts or type(self).thin is TaskVectors.thin:
            return self.thin(model, d, start)
        self._kept = self._kept or [[0, 0] for _ in self.weight]
        self._kept[model][0] += int(np.count_nonzero(d.numpy()))
        d = self.thin(model, d, start)
        self._kept[model][1] += int(np.count_nonzero(d.numpy()))
        return d

    def _add(self, thinned: Sequence[Tensor], factors: Sequence[float]) -> Tensor:
        mixed = thinned[0].mul_(factors[0])
        for factor, each in zip(factors[1:], thinned[1:], strict=True):
            mixed.add_(each, alpha=factor)
        total = sum(self.weight)
        return mixed.div_(total) if self.normalize and abs(total) >= 1e-8 else mixed

    def _elect(self, thinned: Sequence[Tensor], factors: Sequence[float]) -> Tensor:
        """TIES' election. Comparisons that give floats, for a Boolean is far slower to multiply with."""
        for factor, each in zip(factors, thinned, strict=True):
            if factor != 1:
                each.mul_(factor)
        up = thinned[0].clamp(min=0)
        down = thinned[0].clamp(max=0)
        for each in thinned[1:]:
            up.add_(each.clamp(min=0))
            down.add_(each.clamp_(max=0) if not self.normalize else each.clamp(max=0))
        # Where both sides are as large, mergekit's rule (and the paper's code) takes the positive.
        positive = (up + down).ge_(0.0)
        if not self.normalize:
            return down.lerp_(up, positive)
        ups, downs = torch.zeros_like(up), torch.zeros_like(up)
        for weight, each in zip(self.weight, thinned, strict=True):
            signs = each.sign()
            ups.add_(signs.clamp(min=0), alpha=weight)
            downs.sub_(signs.clamp_(max=0), alpha=weight)
        divisor = downs.lerp_(ups, positive)
        divisor.add_(divisor.eq(0.0))
        return down.lerp_(up, positive).div_(divisor)

    def _add_norms(self, model: int, d: Tensor, start: int) -> None:
        if self._sums is None:
            self._sums = [[0.0, 0.0] for _ in self.weight]
        sums = self._sums[model]
        for number, each in enumerate((d.abs(), self.thin(model, d.clone(), start).abs_())):
            for at in range(0, each.numel(), self._block):
                sums[number] += each[at : at + self._block].sum().item()

    def _norm_factor(self, model: int) -> float:
        if self._sums is None:
            return 1.0
        before, after = self._sums[model]
        return 1.0 if before < 1e-7 or after < 1e-7 else before / after
