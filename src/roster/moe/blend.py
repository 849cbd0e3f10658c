"""Blend: several blocks read the same hidden states, and every token weighs their outputs by a gate of its own.

Shape legend: B batch rows, S tokens per row, D model width, N blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.context import Context


class Blend(nn.Module):
    """`sum_n g_n(x) block_n(x)` with `g = softmax(G x)`.

    Args:
        width: D.
        blocks: `(x_BSD, context) -> x_BSD` each.
    """

    def __init__(self, width: int, *blocks: nn.Module):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.gate = nn.Linear(width, len(blocks), bias=False)

    def forward(self, x_BSD: Tensor, context: Context) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        gate_BSN = self.gate(x_BSD).softmax(-1)
        out_BSDN = torch.stack([block(x_BSD, context) for block in self.blocks], dim=-1)
        y_BSD: Tensor = (out_BSDN * gate_BSN[:, :, None]).sum(-1)
        return y_BSD
