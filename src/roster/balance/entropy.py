"""Entropy loss: a router that makes up its mind needs fewer experts to reach its share (Huang et al., 2024,
arXiv:2403.07652).

Shape legend: T tokens, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.balance.mean import over_tokens
from roster.context import Context
from roster.route import AnyRoute, scores_of


class Entropy(nn.Module):
    """`coefficient * mean over real tokens of -sum_e p_e log p_e`, p = softmax(scores).

    Args:
        coefficient: weight of the loss.
    """

    def __init__(self, coefficient: float = 1e-4):
        super().__init__()
        self.coefficient = coefficient

    def forward(self, route: AnyRoute, context: Context) -> Tensor:
        """A scalar."""
        prob_TE = scores_of(route).float().softmax(1)
        return self.coefficient * over_tokens(torch.special.entr(prob_TE.clamp_min(1e-20)).sum(1), context)
