"""Model Breadcrumbs: drop the largest entries of each difference (outliers) and the small ones; add what is between.

Two ways, named. `breadcrumbs` and `breadcrumbs_ties` are mergekit's, which rank within a tensor: `gamma` of the
entries go at the top, `density` of all stay. `model-breadcrumbs` is the authors' code, which ranks within each row:
`gamma` of a row goes at the top, the next `beta` stay. A row too short for one entry keeps one, where their code keeps
none. Entries as large as the one at a boundary are dropped at the top, kept at the bottom.

Source: Davari and Belilovsky 2024, arXiv 2312.06795.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from roster.errors import RosterError
from roster.merge.largest import Largest
from roster.merge.method import Method, PerModel, gathered, per_model, shared
from roster.merge.task_vectors import TaskVectors
from roster.merge.ties import at_least


@dataclass
class Breadcrumbs(TaskVectors):
    """Operands: the base, then the models."""

    density: PerModel = per_model(1.0, 0.0, 1.0)
    gamma: PerModel = per_model(0.01, 0.0, 1.0)
    rescale: bool = shared(False)
    _bounds: list[tuple[Largest, Largest]] | None = gathered()

    def begin(self, shape: tuple[int, ...]) -> None:
        """See `Kernel`."""
        super().begin(shape)
        total = math.prod(shape)
        self._bounds = [_bounds(density, gamma, total) for density, gamma in zip(self.density, self.gamma, strict=True)]

    def measures(self) -> bool:
        """See `TaskVectors`."""
        return any(each.wants_look() for pair in self._bounds or [] for each in pair)

    def measure(self, model: int, d: Tensor, start: int) -> None:
        """See `TaskVectors`."""
        assert self._bounds is not None
        waiting = [each for each in self._bounds[model] if each.wants_look()]
        magnitudes = d.abs() if waiting else d
        for each in waiting:
            each.add(magnitudes, start)

    def end_measure(self) -> None:
        """See `TaskVectors`."""
        for each in (each for pair in self._bounds or [] for each in pair if each.wants_look()):
            each.end_look()

    def matches_norms(self) -> bool:
        """mergekit's `rescale`."""
        return self.rescale

    def thin(self, model: int, d: Tensor, start: int) -> Tensor:
        """See the module."""
        assert self._bounds is not None
        top, bottom = self._bounds[model]
        if top.value < math.inf:
            d = d.sub_(at_least(d, top.value))
        return at_least(d, bottom.value)


@dataclass
class BreadcrumbsTies(Breadcrumbs):
    """The same with TIES' election."""

    elects: ClassVar[bool] = True


@dataclass
class BreadcrumbsRows(TaskVectors):
    """The authors' way. Operands: the base, then the models; whole rows at a time."""

    weight: PerModel = per_model(1.0)
    beta: PerModel = per_model(0.2, 0.0, 1.0)
    gamma: PerModel = per_model(0.1, 0.0, 1.0)
    _row: int = gathered()

    def __post_init__(self) -> None:
        for beta, gamma in zip(self.beta, self.gamma, strict=True):
            if beta + gamma > 1 + 1e-9:
                raise RosterError(f"beta={beta:g} and gamma={gamma:g} are shares of one row, and sum to more than 1")

    def unit(self, shape: tuple[int, ...]) -> int:
        """A row."""
        return max(shape[-1], 1) if shape else 1

    def begin(self, shape: tuple[int, ...]) -> None:
        """See `Kernel`."""
        super().begin(shape)
        self._row = self.unit(shape)

    def thin(self, model: int, d: Tensor, start: int) -> Tensor:
        """See the module."""
        top = int(self.gamma[model] * self._row)
        stay = max(1, int(self.beta[model] * self._row))
        if top == 0 and stay >= self._row:
            return d
        rows = d.view(-1, self._row)
        magnitudes = rows.abs()
        ordered = np.sort(magnitudes.numpy(), axis=1)[:, ::-1]
        bottom = torch.from_numpy(ordered[:, min(top + stay, self._row) - 1].copy())[:, None]
        kept = magnitudes.ge(bottom)
        if top:
            kept &= magnitudes.lt(torch.from_numpy(ordered[:, top - 1].copy())[:, None])
        return rows.mul_(kept).view(-1)


def _bounds(density: float, gamma: float, total: int) -> tuple[Largest, Largest]:
    """As mergekit: fewer outliers are dropped where the density leaves no room for all."""
    if density >= 1:
        return Largest(0, total), Largest(total, total)
    stay = int(density * total)
    top = min(int(gamma * total), total - stay)
    return Largest(top, total), Largest(top + stay if stay else 0, total)


_SOURCE = "Davari and Belilovsky 2024, arXiv 2312.06795"
TENSOR = Method("breadcrumbs", "Breadcrumbs within tensors", _SOURCE, Breadcrumbs)
TIES = Method("breadcrumbs_ties", "Breadcrumbs within tensors, elected", _SOURCE, BreadcrumbsTies)
ROWS = Method("model-breadcrumbs", "Breadcrumbs within rows", _SOURCE, BreadcrumbsRows)
