"""Location score: where a token is decides, not what it is (Dryden and Hoefler, 2022, Spatial Mixture-of-Experts,
arXiv:2211.13491).

Shape legend: T tokens, E experts, P locations.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError
from roster.positions import positions


class Location(nn.Module):
    """`scores = table[position mod P]`. A grid of H x W is a row of P = H * W tokens.

    Args:
        num_experts: E.
        locations: P; further positions begin anew.
        std: standard deviation of the initial scores.
    """

    def __init__(self, num_experts: int, locations: int, std: float = 0.02):
        super().__init__()
        if locations < 1:
            raise RosterError(f"location score: there must be at least one location, not {locations}")
        self.table_PE = nn.Parameter(torch.randn(locations, num_experts) * std)

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """Scores [T, E]."""
        position_T = positions(context, x_TD.device).reshape(-1)
        return self.table_PE[position_T % len(self.table_PE)]
