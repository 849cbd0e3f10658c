"""Hypernetwork score: a linear score whose weights a frozen random network makes from a small trained embedding (Do
et al., 2023, HyperRouter, arXiv:2312.07035).

Shape legend: T tokens, D width, E experts, Z width of the embedding, H hidden units of the network.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError
from roster.score.projection import project


class Hypernetwork(nn.Module):
    """`scores = x W^T` with `W = V relu(U z)`: U and V are drawn once, only z is trained.

    Args:
        width: D.
        num_experts: E.
        embedding: Z.
        hidden: H.
        std: of the weights that come out at the start, as in `Linear`.
    """

    first_HZ: Tensor
    second_EDH: Tensor

    def __init__(self, width: int, num_experts: int, embedding: int = 32, hidden: int = 64, std: float = 0.02):
        super().__init__()
        if min(embedding, hidden) < 1:
            raise RosterError(f"a hypernetwork score needs widths of at least 1, not {embedding} and {hidden}")
        self.register_buffer("first_HZ", torch.randn(hidden, embedding) * embedding**-0.5)
        # Half of the hidden units are off, hence the 2.
        self.register_buffer("second_EDH", torch.randn(num_experts, width, hidden) * std * (2 / hidden) ** 0.5)
        self.embedding_Z = nn.Parameter(torch.randn(embedding))

    @property
    def weight_ED(self) -> Tensor:
        """What the network makes of the embedding."""
        return self.second_EDH @ torch.relu(self.first_HZ @ self.embedding_Z)

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """Scores [T, E]."""
        return project(x_TD, self.weight_ED)
