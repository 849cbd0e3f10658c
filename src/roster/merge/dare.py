"""DARE: drop entries of each difference at random, make up for it by scale, then add (linear) or elect (TIES).

Equation: S(d) = m * d / density with m ~ Bernoulli(density), so that S(d) is d in expectation.
mergekit scales so that the sum of magnitudes is what it was before the drop: `scale_to: norm`; it needs another look at
the weights. What is dropped depends on `seed`, the tensor's name, the model's place and the element: not on the run.

Source: Yu et al. 2024, arXiv 2311.03099.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from roster.merge.method import Method, PerModel, per_model, shared
from roster.merge.random import RANGE, draws
from roster.merge.task_vectors import TaskVectors


@dataclass
class DareLinear(TaskVectors):
    """Operands: the base, then the models."""

    density: PerModel = per_model(1.0, 0.0, 1.0)
    rescale: bool = shared(True)
    scale_to: str = shared("expectation", choices=("expectation", "norm"))
    seed: int = shared(0, 0, 2**31)

    def matches_norms(self) -> bool:
        """mergekit's way of scaling."""
        return self.rescale and self.scale_to == "norm" and any(0 < each < 1 for each in self.density)

    def thin(self, model: int, d: Tensor, start: int) -> Tensor:
        """See the module."""
        density = self.density[model]
        if density >= 1:
            return d
        if density <= 0:
            return d.zero_()
        kept = draws(self.seed, self.tensor, model, start, start + d.numel()) < int(density * RANGE)
        d.mul_(torch.from_numpy(kept))
        return d.div_(density) if self.rescale and self.scale_to == "expectation" else d


@dataclass
class DareTies(DareLinear):
    """The same with TIES' election."""

    elects: ClassVar[bool] = True


_SOURCE = "Yu et al. 2024, arXiv 2311.03099"
LINEAR = Method("dare_linear", "DARE, added", _SOURCE, DareLinear)
TIES = Method("dare_ties", "DARE with TIES' election", f"{_SOURCE}; election: arXiv 2306.01708", DareTies)
