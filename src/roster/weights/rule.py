"""What a rule is made of: outputs, the operands that each of them needs, and the kernel that computes it.

A kernel sees its operands piece by piece and must give the same bits for pieces of any size: what it sums, it sums in
blocks of `BLOCK` elements that start at the tensor's start (`Gram`), never over a piece as it comes. How to write one
is told in the docstring of `roster.weights`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from roster.header import Spec
from roster.weights.source import Source

BLOCK = 1 << 16
"""Elements whose sum is taken in one go; a piece's size is a multiple of it (or of `block_of` a kernel's unit)."""


@dataclass(frozen=True)
class Operand:
    """One tensor of one source."""

    source: Source
    tensor: str

    @property
    def spec(self) -> Spec:
        """Its type and shape."""
        return self.source.specs[self.tensor]


class Kernel:
    """Computes one tensor from operands of its shape. One object per output tensor.

    Attributes:
        raw: whether operands come in their own type instead of float32 (float64 where an operand is).
        surveys: whether it must see all tensors of the model before the first is written (`survey`).
        counts: set where a report is wanted: it counts what it keeps, and says so in `end`.
    """

    raw = False
    surveys = False
    counts = False

    def __repr__(self) -> str:
        """Part of a plan's fingerprint, so without an address: the same in the process that takes a killed run up."""
        return f"{type(self).__name__}()"

    def unit(self, shape: tuple[int, ...]) -> int:
        """How many elements, from any multiple of this number on, must come in one piece."""
        return 1

    def scratch(self, shape: tuple[int, ...]) -> int:
        """Bytes that it holds besides the pieces."""
        return 0

    def survey(self, x: Sequence[Tensor], start: int) -> None:
        """One piece of a look at the whole model, tensor by tensor, before any is written."""

    def wants_survey(self) -> bool:
        """Whether another look at the whole model is needed."""
        return False

    def end_survey(self) -> None:
        """Called on one kernel after each look at the whole model."""

    def begin(self, shape: tuple[int, ...]) -> None:
        """Called before the first look; forgets what an earlier run may have left."""

    def wants_look(self) -> bool:
        """Whether another look at this tensor's operands is needed before it can be written."""
        return False

    def look(self, x: Sequence[Tensor], start: int) -> None:
        """One piece of a look: flat operands, and where in the tensor they start. Must not change them."""

    def end_look(self) -> None:
        """Called after the last piece of a look."""

    def write(self, x: Sequence[Tensor], start: int) -> Tensor:
        """One piece of the result, flat; may use the operands' memory."""
        raise NotImplementedError

    def end(self) -> dict[str, Any]:
        """Called after the last piece is written: frees what it holds, returns what is worth reporting."""
        return {}


@dataclass(eq=False)
class Copy(Kernel):
    """The first operand as it is (or in the type of the output)."""

    raw = True

    def write(self, x: Sequence[Tensor], start: int) -> Tensor:
        """The piece itself."""
        return x[0]


@dataclass(frozen=True)
class Output:
    """One tensor to write.

    Attributes:
        name: its name in the new checkpoint.
        spec: its type and shape.
        operands: what is read; each has the output's shape.
        kernel: what computes it; its own object, not shared with other outputs.
        stem: of its file, where that is not the plan's: "member-0/model" is a checkpoint in a folder of its own.
    """

    name: str
    spec: Spec
    operands: tuple[Operand, ...]
    kernel: Kernel
    stem: str = ""

    @property
    def key(self) -> str:
        """Its name within the run, where several checkpoints have a tensor of one name."""
        return f"{self.stem}:{self.name}" if self.stem else self.name


def block_of(unit: int) -> int:
    """Elements whose sum is taken in one go where a kernel needs `unit` of them together: every piece is a multiple."""
    return max(BLOCK // unit, 1) * unit


def blocks(x: Tensor, size: int = BLOCK) -> Sequence[Tensor]:
    """A flat piece in blocks of so many elements."""
    return torch.split(x, size)


def block_dots(x: Tensor, y: Tensor, size: int = BLOCK) -> list[float]:
    """Inner products block by block."""
    return [torch.dot(a, b).item() for a, b in zip(blocks(x, size), blocks(y, size), strict=True)]


class Gram:
    """All inner products of a few vectors that come in pieces; `block` where a kernel's pieces have a unit."""

    def __init__(self, size: int, block: int = BLOCK) -> None:
        self._sums = [[0.0] * size for _ in range(size)]
        self._block = block

    def add(self, x: Sequence[Tensor]) -> None:
        """One piece of each vector; block after block, so that where pieces are cut changes no bit."""
        for i, a in enumerate(x):
            for j in range(i + 1):
                for value in block_dots(a, x[j], self._block):
                    self._sums[i][j] += value

    def matrix(self) -> Tensor:
        """The products so far, [size, size], float64."""
        lower = torch.tensor(self._sums, dtype=torch.float64).view(len(self._sums), len(self._sums))
        return lower + lower.tril(-1).T
