"""Carried: one gate for all layers. It belongs to the mixture's head, which lays it into the call's memory.

Shape legend: T tokens, D width, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.score.projection import project


class Gate(nn.Module):
    """The head: one linear gate `weight_ED`, carried to every layer of a call.

    Args:
        width: D.
        num_experts: E.
        key: under which it lies in the context's memory.
        std: standard deviation of the initial weights.
    """

    def __init__(self, width: int, num_experts: int, key: str, std: float = 0.02):
        super().__init__()
        self.key = key
        self.weight_ED = nn.Parameter(torch.randn(num_experts, width) * std)

    def forward(self, hidden_BSD: Tensor, context: Context) -> Tensor:
        """Lays the gate into memory, and returns its input."""
        context.memory[self.key] = self.weight_ED
        return hidden_BSD


class Carried(nn.Module):
    """`scores = x W^T`, with the W that the head carries.

    Args:
        key: under which it lies in the context's memory.
    """

    def __init__(self, key: str):
        super().__init__()
        self.key = key

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """Scores [T, E]."""
        weight_ED: Tensor = context.memory[self.key]
        return project(x_TD, weight_ED.to(x_TD.device))
