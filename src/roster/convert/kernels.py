"""What conversions compute besides copies: a matrix times a number, values made elsewhere, rows of a new router."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from roster.weights import Kernel


@dataclass
class Scaled(Kernel):
    """The first operand times a number."""

    factor: float

    def write(self, x: Sequence[Tensor], start: int) -> Tensor:
        """See the class."""
        return x[0].mul_(self.factor)


@dataclass
class Given(Kernel):
    """Values that are there already; no operands.

    Args:
        values: of the whole tensor, small.
        digest: of them, for the fingerprint.
    """

    values: Tensor = field(repr=False)
    digest: str = ""

    def __post_init__(self) -> None:
        self.values = self.values.detach().float().contiguous()
        self.digest = hashlib.sha256(self.values.numpy().tobytes()).hexdigest()[:16]

    def unit(self, shape: tuple[int, ...]) -> int:
        """All at once."""
        return math.prod(shape)

    def write(self, x: Sequence[Tensor], start: int) -> Tensor:
        """The values, flat."""
        return self.values.flatten().clone()


@dataclass
class DrawnRouter(Kernel):
    """Rows drawn from a normal distribution around 0, each repeated so many times in a row; no operands.

    Args:
        std: standard deviation; 0 gives a router that prefers nobody.
        repeats: how often a row comes.
        seed: of the draw; every layer has its own.
    """

    std: float
    repeats: int
    seed: int
    _shape: tuple[int, ...] = field(default=(), repr=False, init=False)

    def begin(self, shape: tuple[int, ...]) -> None:
        """Learns the shape, [experts, width]."""
        self._shape = shape

    def unit(self, shape: tuple[int, ...]) -> int:
        """All at once: routers are small."""
        return math.prod(shape)

    def write(self, x: Sequence[Tensor], start: int) -> Tensor:
        """The rows, flat."""
        experts, width = self._shape
        rows = torch.randn(experts // self.repeats, width, generator=torch.Generator().manual_seed(self.seed))
        return (rows * self.std).repeat_interleave(self.repeats, dim=0).flatten()
