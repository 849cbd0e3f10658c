"""Hyperspherical score: cosine in a space of few dimensions, with a learned temperature (Chi et al., 2022, X-MoE,
arXiv:2204.09179).

Shape legend: T tokens, D width, E experts, P dimensions of the routing space.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roster.context import Context
from roster.errors import RosterError
from roster.score.projection import project


class Hyperspherical(nn.Module):
    """`scores_e = cos(R x, v_e) / tau`: neither the length of a token nor that of an expert's vector counts.

    Args:
        width: D.
        num_experts: E.
        dimensions: P, of the space in which tokens and experts meet.
        temperature: tau at the start; it is trained.
    """

    lowest = 0.01  # a temperature that training drove to zero would make every score infinite

    def __init__(self, width: int, num_experts: int, dimensions: int, temperature: float = 0.3):
        super().__init__()
        if dimensions < 1:
            raise RosterError(f"a hyperspherical score needs at least one dimension, not {dimensions}")
        if not temperature > 0:
            raise RosterError(f"a hyperspherical score needs a temperature above 0, not {temperature}")
        self.reduce_PD = nn.Parameter(torch.randn(dimensions, width) * width**-0.5)
        self.vectors_EP = nn.Parameter(torch.randn(num_experts, dimensions))
        self.temperature = nn.Parameter(torch.tensor(float(temperature)))

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """Scores [T, E], within [-1 / tau, 1 / tau]."""
        token_TP = F.normalize(project(x_TD, self.reduce_PD).float(), dim=1)
        cosine_TE = token_TP @ F.normalize(self.vectors_EP.float(), dim=1).T
        return cosine_TE / self.temperature.float().clamp_min(self.lowest)
