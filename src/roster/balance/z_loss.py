"""Router z-loss: keeps scores small (Zoph et al., 2022, ST-MoE, arXiv:2202.08906, eq. 5).

Shape legend: T tokens, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.balance.mean import over_tokens
from roster.context import Context
from roster.route import AnyRoute, scores_of


class ZLoss(nn.Module):
    """`coefficient * mean over real tokens of logsumexp(scores)^2`.

    Args:
        coefficient: weight of the loss.
    """

    def __init__(self, coefficient: float = 1e-3):
        super().__init__()
        self.coefficient = coefficient

    def forward(self, route: AnyRoute, context: Context) -> Tensor:
        """A scalar."""
        z_T = torch.logsumexp(scores_of(route).float(), dim=1).square()
        return self.coefficient * over_tokens(z_T, context)
