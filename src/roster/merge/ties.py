"""TIES: keep the largest entries of each difference, elect a sign per element, add those that agree.

Equation: S keeps the largest `density` share by magnitude; then the election of `task_vectors.py`, normalized.
`trim: global` ranks the entries of the whole model, as the paper and its code do; `trim: tensor` ranks within each
tensor, as mergekit does, where every tensor keeps the same share whether it changed or not. They differ: on models
whose tensors change by different amounts the merged differences are a quarter of their norm apart.
Ties at the threshold are all kept, as in the paper's code.

Source: Yadav et al. 2023, arXiv 2306.01708.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from torch import Tensor
from torch.nn.functional import hardshrink

from roster.errors import RosterError
from roster.merge.largest import Largest
from roster.merge.method import Method, PerModel, gathered, per_model, shared
from roster.merge.task_vectors import TaskVectors


class Trims:
    """What the kernels of one run share: how many entries there are, and one threshold for each model."""

    def __init__(self, models: int) -> None:
        self.models = models
        self.total = 0
        self.density: PerModel | None = None
        self.thresholds: list[Largest] = []


@dataclass
class Ties(TaskVectors):
    """Operands: the base, then the models. With `trim: global` the densities must be the same for all tensors."""

    density: PerModel = per_model(1.0, 0.0, 1.0)
    normalize: bool = shared(True)
    rescale: bool = shared(False)
    trim: str = shared("global", choices=("global", "tensor"))
    common: Trims | None = field(default=None, repr=False)
    _own: list[Largest] | None = gathered()

    elects: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.surveys = self.trim == "global"

    def announce(self, shape: tuple[int, ...]) -> None:
        """Counts the entries of the whole model; called while planning, for every tensor.

        Raises:
            RosterError: densities vary between tensors, which have one ranking.
        """
        assert self.common is not None
        if self.common.density not in (None, self.density):
            raise RosterError(
                "the densities vary between tensors, but with trim: global all tensors are ranked together; "
                "set trim: tensor"
            )
        self.common.density = self.density
        self.common.total += math.prod(shape)

    def wants_survey(self) -> bool:
        """Until the thresholds of all models are known."""
        if not self.surveys or self.common is None:
            return False
        if not self.common.thresholds:
            total = self.common.total
            self.common.thresholds = [Largest(_count(each, total), total) for each in self.density]
        return any(each.wants_look() for each in self.common.thresholds)

    def survey(self, x: Sequence[Tensor], start: int) -> None:
        """See `Kernel`."""
        assert self.common is not None
        _show(self.common.thresholds, x, start)

    def end_survey(self) -> None:
        """See `Kernel`."""
        assert self.common is not None
        for each in self.common.thresholds:
            if each.wants_look():
                each.end_look()

    def begin(self, shape: tuple[int, ...]) -> None:
        """See `Kernel`."""
        super().begin(shape)
        if self.surveys:
            assert self.common is not None
            self._own = self.common.thresholds
        else:
            total = math.prod(shape)
            self._own = [Largest(_count(each, total), total) for each in self.density]

    def measures(self) -> bool:
        """See `TaskVectors`."""
        return any(each.wants_look() for each in self._own or [])

    def measure(self, model: int, d: Tensor, start: int) -> None:
        """See `TaskVectors`."""
        assert self._own is not None
        if self._own[model].wants_look():
            self._own[model].add(d.abs(), start)

    def end_measure(self) -> None:
        """See `TaskVectors`."""
        for each in self._own or []:
            if each.wants_look():
                each.end_look()

    def matches_norms(self) -> bool:
        """mergekit's `rescale`."""
        return self.rescale

    def thin(self, model: int, d: Tensor, start: int) -> Tensor:
        """Entries at least as large as the threshold stay."""
        assert self._own is not None
        return at_least(d, self._own[model].value)


def at_least(d: Tensor, threshold: float) -> Tensor:
    """`d` with zeros where its magnitude is below the threshold."""
    if threshold == 0:
        return d
    if threshold == math.inf:
        return d.zero_()
    # hardshrink keeps what is above its bound, so the bound is the next smaller number of the type.
    kind = np.float64 if d.dtype.itemsize == 8 else np.float32
    return hardshrink(d, float(np.nextafter(kind(threshold), kind(0))))


def _show(thresholds: Sequence[Largest], x: Sequence[Tensor], start: int) -> None:
    for threshold, each in zip(thresholds, x[1:], strict=True):
        if threshold.wants_look():
            threshold.add((each - x[0]).abs_(), start)


def _count(density: float, total: int) -> int:
    """mergekit's: rounded down, one at least."""
    return 0 if density <= 0 else max(1, int(density * total))


METHOD = Method("ties", "TIES", "Yadav et al. 2023, arXiv 2306.01708", Ties, shares=Trims)
