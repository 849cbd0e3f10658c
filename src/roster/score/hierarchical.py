"""Hierarchical score: one router for groups of experts, one for the experts within them (Jiang et al., 2021, SAM,
arXiv:2110.07431).

Shape legend: T tokens, D width, E experts, G groups, e experts per group.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError
from roster.score.projection import project


class Hierarchical(nn.Module):
    """`scores = log p(group | x) + log p(expert | group, x)`, two softmaxes; their softmax is the joint probability.

    Args:
        width: D.
        num_experts: E; groups follow each other.
        groups: G, which divides E.
        std: standard deviation of the initial weights.
    """

    def __init__(self, width: int, num_experts: int, groups: int, std: float = 0.02):
        super().__init__()
        if groups < 1 or num_experts % groups:
            raise RosterError(f"{num_experts} experts do not divide into {groups} groups of equal size")
        self.groups = groups
        self.group_GD = nn.Parameter(torch.randn(groups, width) * std)
        self.weight_ED = nn.Parameter(torch.randn(num_experts, width) * std)

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """Scores [T, E]."""
        log_TG = project(x_TD, self.group_GD).float().log_softmax(1)
        within_TE = project(x_TD, self.weight_ED).float()
        log_TGe = within_TE.unflatten(1, (self.groups, -1)).log_softmax(2)
        scores_TE: Tensor = (log_TG[:, :, None] + log_TGe).flatten(1)
        return scores_TE
