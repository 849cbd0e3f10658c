"""Parameter penalty: serving costs what an expert weighs (Wang et al., 2024, HMoE, arXiv:2408.10681).

Shape legend: T tokens, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from roster.balance.mean import over_tokens
from roster.context import Context
from roster.errors import RosterError
from roster.route import AnyRoute, scores_of


class ParameterPenalty(nn.Module):
    """`coefficient * E * sum_e (size_e / mean size) f_e P_e`: a load-balancing loss in which large experts count more.

    `f_e` is the share of tokens that expert e serves, `P_e` its mean router probability. With equal sizes this is
    `LoadBalancing`; otherwise the loss is least when the load falls as the size rises.

    Args:
        sizes: hidden units or parameters of each expert; only their proportions matter.
        coefficient: weight of the loss.
    """

    size_E: Tensor

    def __init__(self, sizes: Sequence[float], coefficient: float = 0.01):
        super().__init__()
        if min(sizes) <= 0:
            raise RosterError(f"parameter penalty: every size must be above 0: {list(sizes)}")
        self.coefficient = coefficient
        size_E = torch.tensor(sizes, dtype=torch.float32)
        self.register_buffer("size_E", size_E / size_E.mean())

    def forward(self, route: AnyRoute, context: Context) -> Tensor:
        """A scalar."""
        prob_E = over_tokens(scores_of(route).float().softmax(1), context)
        served_E = over_tokens(route.chosen().to(prob_E), context)
        return self.coefficient * len(prob_E) * (self.size_E * served_E * prob_E).sum()
