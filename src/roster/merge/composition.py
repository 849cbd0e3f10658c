"""Task vectors with a coefficient of their own for every tensor, or for every one of a few parts of it.

Equation: theta_b = theta_0b + sum_t a_tb (theta_tb - theta_0b) for a tensor b; in K parts, each element belongs to one
of them by a fixed draw, and a_tb is the part's. Who learns the coefficients says `coefficients.py`.

Sources: Yang et al. 2024, arXiv 2310.02575 (a tensor each); Zhang et al. 2024, arXiv 2407.02880 (or a part of it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from roster.merge.method import gathered, learned
from roster.merge.random import draws
from roster.weights import Kernel


class Later(Protocol):
    """A tensor that is read when it is needed."""

    def read(self) -> Tensor:
        """The tensor."""


@dataclass
class Composition(Kernel):
    """Operands: the base, then the models; where nothing is known about a tensor, it stays the base's."""

    coefficients: tuple[Tensor | Later, ...] = learned()
    tensor: str = ""
    _known: list[Tensor] | None = gathered()

    def begin(self, shape: tuple[int, ...]) -> None:
        """Reads the coefficients, [K] for each model."""
        self._known = [each if isinstance(each, Tensor) else each.read() for each in self.coefficients]

    def write(self, x: Sequence[Tensor], start: int) -> Tensor:
        """See the module."""
        made = x[0].clone()
        if not self._known:
            return made
        for model, a_K in zip(x[1:], self._known, strict=True):
            difference = model.sub_(x[0])
            if a_K.numel() == 1:
                made.add_(difference, alpha=float(a_K))
            else:
                part = part_of(self.tensor, start, start + made.numel(), a_K.numel())
                made.add_(difference.mul_(a_K.to(made.dtype)[part]))
        return made


def part_of(tensor: str, start: int, stop: int, parts: int) -> Tensor:
    """Which part each of the elements [start, stop) of a tensor belongs to; the same in every run."""
    return torch.from_numpy(draws(0, tensor, 0, start, stop) % parts).long()
