"""DELLA (MagPrune): drop entries at random, the smaller ones of a row more often, then add or elect.

Equation: an entry of rank r among the n of its row (0 the smallest) is kept with probability
p = density - epsilon + 2 epsilon r / (n - 1). Scaling (`rescale`): `scale_to: probability` divides by p, as in the
paper; `scale_to: norm`, the default and mergekit's, makes the sum of magnitudes what it was.

Only draws that fall between density - epsilon and density + epsilon depend on the rank: each is turned into the rank
that it lets pass, and that into the magnitude that has this rank. So rows are sorted, but no ranks are computed.
Magnitudes are told apart to their upper 16 bits (a bfloat16 number); entries that are equal so far share a rank.

Source: Deep et al. 2024, arXiv 2406.11617.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from roster.errors import RosterError
from roster.merge.method import Method, PerModel, gathered, per_model, shared
from roster.merge.random import RANGE, draws
from roster.merge.task_vectors import TaskVectors


@dataclass
class DellaLinear(TaskVectors):
    """Operands: the base, then the models. Whole rows at a time; a vector is one row."""

    density: PerModel = per_model(1.0, 0.0, 1.0)
    epsilon: PerModel = per_model(0.15, 0.0, 0.5)
    rescale: bool = shared(True)
    scale_to: str = shared("norm", choices=("norm", "probability"))
    seed: int = shared(0, 0, 2**31)
    _row: int = gathered()

    def __post_init__(self) -> None:
        for density, epsilon in zip(self.density, self.epsilon, strict=True):
            if 0 < density < 1 and (density - epsilon <= 0 or density + epsilon >= 1):
                raise RosterError(
                    f"density={density:g} and epsilon={epsilon:g}: density - epsilon must be above 0 and density + "
                    "epsilon below 1, for they are probabilities"
                )

    def unit(self, shape: tuple[int, ...]) -> int:
        """A row."""
        return max(shape[-1], 1) if shape else 1

    def begin(self, shape: tuple[int, ...]) -> None:
        """See `Kernel`."""
        super().begin(shape)
        self._row = self.unit(shape)

    def matches_norms(self) -> bool:
        """mergekit's way of scaling."""
        return self.rescale and self.scale_to == "norm" and any(0 < each < 1 for each in self.density)

    def thin(self, model: int, d: Tensor, start: int) -> Tensor:
        """See the module."""
        density, epsilon = self.density[model], self.epsilon[model]
        if density >= 1 or d.numel() == 0:
            return d
        if density <= 0:
            return d.zero_()
        keys = _keys(d).reshape(-1, self._row)
        u = draws(self.seed, self.tensor, model, start, start + d.numel()).reshape(keys.shape)
        kept = _kept(keys, u, density, epsilon)
        d.mul_(torch.from_numpy(kept.ravel()))
        if self.rescale and self.scale_to == "probability":
            d.div_(torch.from_numpy(_probabilities(keys, density, epsilon).ravel()))
        return d


@dataclass
class Della(DellaLinear):
    """The same with TIES' election, normalized as in mergekit."""

    normalize: bool = shared(True)

    elects: ClassVar[bool] = True


def _keys(d: Tensor) -> npt.NDArray[np.uint16]:
    """The upper 16 bits of each magnitude, in the order of the magnitudes."""
    bits = d.abs().float().numpy().view(np.uint32)
    return (bits >> 16).astype(np.uint16)


def _kept(
    keys: npt.NDArray[np.uint16], u: npt.NDArray[np.uint32], density: float, epsilon: float
) -> npt.NDArray[np.bool_]:
    low, high = int((density - epsilon) * RANGE), int((density + epsilon) * RANGE)
    kept = u < low
    row, column = np.nonzero((u >= low) & (u < high))
    # Kept where u < p(rank), that is where the rank is above this one.
    wanted = (u[row, column] - np.uint32(low)) * ((keys.shape[1] - 1) / max(high - low, 1))
    ranks = np.minimum(np.floor(wanted).astype(np.int64) + 1, keys.shape[1] - 1)
    kept[row, column] = keys[row, column] >= np.sort(keys, axis=1, kind="stable")[row, ranks]
    return kept


def _probabilities(keys: npt.NDArray[np.uint16], density: float, epsilon: float) -> npt.NDArray[np.float32]:
    ranks = np.stack([np.searchsorted(np.sort(row), row) for row in keys])
    share = ranks / max(keys.shape[1] - 1, 1)
    keep: npt.NDArray[np.float32] = (density - epsilon + 2 * epsilon * share).astype(np.float32)
    return keep


_SOURCE = "Deep et al. 2024, arXiv 2406.11617"
LINEAR = Method("della_linear", "DELLA, added", _SOURCE, DellaLinear)
ELECTED = Method("della", "DELLA with TIES' election", f"{_SOURCE}; election: arXiv 2306.01708", Della)
