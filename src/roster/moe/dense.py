"""Blocks beside or instead of routed ones: a dense block, and the sum of several.

Shape legend: B batch rows, S tokens per row, D model width, T = B * S.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.context import Context


class Dense(nn.Module):
    """One expert that serves every token: a yardstick, and the shared expert of many layouts.

    Args:
        experts: experts of which there is exactly one.
    """

    def __init__(self, experts: nn.Module):
        super().__init__()
        self.experts = experts

    def forward(self, x_BSD: Tensor, context: Context) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        x_TD = x_BSD.reshape(-1, x_BSD.shape[-1])
        counts_E = torch.full((1,), x_TD.shape[0], device=x_TD.device)
        y_TD: Tensor = self.experts(x_TD, counts_E).view_as(x_BSD)
        return y_TD


class Sum(nn.Module):
    """The sum of several blocks that read the same hidden states."""

    def __init__(self, *blocks: nn.Module):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x_BSD: Tensor, context: Context) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        return torch.stack([block(x_BSD, context) for block in self.blocks]).sum(0)
