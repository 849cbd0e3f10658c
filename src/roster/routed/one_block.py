"""Heads that read prompts behind one block of the base, and know which without asking a device."""

from __future__ import annotations

import torch
from torch import Tensor

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

    def settle(self) -> None:
        """Looks the number up in the tensor, once: later, reading it off a device would mean waiting for it."""
        self.blocks = (int(self.block_1),)
