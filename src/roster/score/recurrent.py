"""Recurrent score: the router of a layer knows what the routers below it made of the same token (Qiu et al., 2024,
"Layerwise Recurrent Router for Mixture-of-Experts", arXiv:2408.06793).

Shape legend: T tokens, D width, E experts, H width of the state.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.score.projection import project


class Recurrent(nn.Module):
    """`r_l = cell(P_l x_l, r_(l-1))`, `scores = W_l r_l`; the recurrence runs over layers, not over tokens.

    Every layer leaves its state under a name of its own: what a recomputed layer writes over would be lost.

    Args:
        width: D.
        num_experts: E.
        cell: `(input [T, H], state [T, H]) -> state [T, H]`, such as `nn.GRUCell`; the same object in all layers.
        hidden: H.
        index: which of the routed layers this is, counted from 0; the first begins with a state of zeros.
        key: under which states lie in the context's memory.
    """

    def __init__(self, width: int, num_experts: int, cell: nn.Module, hidden: int, index: int, key: str = "recurrent"):
        super().__init__()
        self.cell, self.index, self.key = cell, index, key
        self.reduce_HD = nn.Parameter(torch.randn(hidden, width) * width**-0.5)
        self.weight_EH = nn.Parameter(torch.randn(num_experts, hidden) * hidden**-0.5)

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """Scores [T, E]."""
        input_TH = project(x_TD, self.reduce_HD)
        state_TH = context.memory.get(f"{self.key}/{self.index - 1}")
        if state_TH is None:
            state_TH = torch.zeros_like(input_TH)
        state_TH = self.cell(input_TH, state_TH.to(input_TH))
        context.memory[f"{self.key}/{self.index}"] = state_TH
        return project(state_TH, self.weight_EH)
