"""Heads that read prompts behind one block of the base, and know which without asking a device."""

from __future__ import annotations

import torch
from torch import Tensor

from roster.errors import RosterError
from roster.routed.settling import Settling


class OneBlock(Settling):
    """Keeps the block's number in files with its other tensors, and beside them as a number of Python's.

    Attributes:
        blocks: behind which block hidden states are read, counted from 1.
    """

    block_1: Tensor
    blocks: tuple[int]

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("block_1", torch.ones(1, dtype=torch.long))
        self.read_behind(1)

    def read_behind(self, block: int) -> None:
        """Takes over which block it is."""
        self.block_1.fill_(block)
        self.settle()

    def choose(self, layer: int | None, depth: int, needed_by: str) -> None:
        """Takes over which block somebody asks for; see `block_of`."""
        self.read_behind(block_of(layer, depth, needed_by))

    def settle(self) -> None:
        """Looks the number up in the tensor, once: later, reading it off a device would mean waiting for it."""
        self.blocks = (int(self.block_1),)


def block_of(layer: int | None, depth: int, needed_by: str) -> int:
    """The number of a block, counted from 1; of the last one where nobody names one.

    Args:
        layer: its number, or None.
        depth: how many blocks the base has.
        needed_by: who reads behind it, for the error.

    Raises:
        RosterError: there is no such block.
    """
    if layer is not None and not 1 <= layer <= depth:
        raise RosterError(f"{needed_by}: layer={layer}, but the base has blocks 1 to {depth}")
    return depth if layer is None else layer
