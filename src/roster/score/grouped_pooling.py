"""Grouped average pooling: an expert's score is the mean of its own run of channels (Li et al., 2024, LocMoE,
arXiv:2401.13920).

Shape legend: T tokens, D width, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError
from roster.score.projection import project


class GroupedPooling(nn.Module):
    """`scores_e = scale * sqrt(D / E) * mean of x over channels e * D/E to (e + 1) * D/E`.

    The directions are orthonormal by construction (times the scale) and are not trained: what learns to be routed is
    the hidden state.

    Args:
        width: D, a multiple of the number of experts.
        num_experts: E.
        scale: standard deviation of the scores of tokens with independent channels of variance 1.
    """

    weight_ED: Tensor

    def __init__(self, width: int, num_experts: int, scale: float = 1.0):
        super().__init__()
        if width % num_experts:
            raise RosterError(f"grouped pooling: {width} channels do not divide among num_experts={num_experts}")
        group = width // num_experts
        weight_ED = torch.eye(num_experts).repeat_interleave(group, dim=1) * (scale * group**-0.5)
        self.register_buffer("weight_ED", weight_ED)

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """Scores [T, E]."""
        return project(x_TD, self.weight_ED)
