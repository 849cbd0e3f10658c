"""SCE: select the elements that vary most between the models, compute weights from energies, erase minority signs.

Equation: of the elements whose variance over the models is not 0, the `select_topk` share that varies most stays; model
i weighs mean(d_i^2) / sum_j mean(d_j^2); per element the models that agree with the sign of the sum are averaged by
these weights. As in mergekit. Source: Wan et al. 2024, arXiv 2408.07990.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from roster.merge.largest import Largest
from roster.merge.method import Method, gathered, shared
from roster.weights import Kernel, blocks


@dataclass
class Sce(Kernel):
    """Operands: the base, then the models."""

    select_topk: float = shared(1.0, 0.0, 1.0)
    _total: int = gathered()
    _nonzero: int | None = gathered()
    _bound: Largest | None = gathered()
    _energies: list[float] | None = gathered()
    _done: bool = gathered()
    _kept: list[list[int]] | None = gathered()

    def begin(self, shape: tuple[int, ...]) -> None:
        """See `Kernel`."""
        self._total = math.prod(shape)
        self._nonzero, self._bound, self._energies, self._done = None, None, None, False
        self._kept = None

    def wants_look(self) -> bool:
        """At how many elements vary; at which vary most; at the energies of what was selected."""
        return not self._done

    def look(self, x: Sequence[Tensor], start: int) -> None:
        """See `Kernel`."""
        d = [each - x[0] for each in x[1:]]
        if self.select_topk < 1 and self._bound is None:
            varying = int(np.count_nonzero(_variance(d).numpy()))
            self._nonzero = (self._nonzero or 0) + varying
        elif self._bound is not None and self._bound.wants_look():
            self._bound.add(_variance(d), start)
        else:
            self._energies = self._energies or [0.0] * len(d)
            for model, each in enumerate(self._select(d)):
                for block in blocks(each):
                    self._energies[model] += torch.dot(block, block).item()

    def end_look(self) -> None:
        """See `Kernel`."""
        if self.select_topk < 1 and self._bound is None:
            self._bound = Largest(int((self._nonzero or 0) * self.select_topk), self._total)
        elif self._bound is not None and self._bound.wants_look():
            self._bound.end_look()
        else:
            self._done = True

    def write(self, x: Sequence[Tensor], start: int) -> Tensor:
        """See the module."""
        d = [each.sub_(x[0]) for each in x[1:]]
        if self.counts and self._bound is not None:
            self._kept = self._kept or [[0, 0] for _ in d]
            for counted, each, chosen in zip(self._kept, d, self._select(d), strict=True):
                counted[0] += int(np.count_nonzero(each.numpy()))
                counted[1] += int(np.count_nonzero(chosen.numpy()))
        d = self._select(d)
        positive = sum(d[1:], d[0].clone()).ge_(0.0)
        majority = positive.mul_(2).sub_(1)
        above, below = torch.zeros_like(x[0]), torch.zeros_like(x[0])
        for weight, each in zip(self._weights(len(d)), d, strict=True):
            agrees = each.sign().eq(majority).to(each.dtype)
            above.addcmul_(each, agrees, value=weight)
            below.add_(agrees, alpha=weight)
        return above.div_(below.clamp_(min=1e-6)).add_(x[0])

    def end(self) -> dict[str, Any]:
        """`kept`, where it is asked for: the share of each model's changed entries that were selected."""
        kept, self._bound, self._kept = self._kept, None, None
        return {"kept": [after / before if before else None for before, after in kept]} if kept is not None else {}

    def _select(self, d: Sequence[Tensor]) -> list[Tensor]:
        if self._bound is None:
            return list(d)
        chosen = _variance(d).ge_(self._bound.value)
        return [each * chosen for each in d]

    def _weights(self, count: int) -> list[float]:
        energies = [each / max(self._total, 1) for each in self._energies or [0.0] * count]
        total = sum(energies)
        return [1 / count] * count if abs(total) < 1e-6 else [each / total for each in energies]


def _variance(d: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(d)).var(dim=0, unbiased=False)


METHOD = Method("sce", "SCE", "Wan et al. 2024, arXiv 2408.07990", Sce)
