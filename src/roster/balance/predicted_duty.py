"""Predicted duty: scores learn to tell, token by token, who was chosen with knowledge of the whole row (Raposo et al.,
2024, Mixture-of-Depths, arXiv:2404.02258, section 3.5).

Shape legend: T tokens, E experts.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from roster.balance.mean import over_tokens
from roster.context import Context
from roster.route import AnyRoute, scores_of


class PredictedDuty(nn.Module):
    """`coefficient * binary cross-entropy of sigmoid(scores) against who is on duty`, mean over tokens and experts.

    Args:
        coefficient: weight of the loss.
    """

    def __init__(self, coefficient: float = 0.01):
        super().__init__()
        self.coefficient = coefficient

    def forward(self, route: AnyRoute, context: Context) -> Tensor:
        """A scalar."""
        scores_TE = scores_of(route).float()
        wanted_TE = route.chosen().to(scores_TE)
        loss_TE = F.binary_cross_entropy_with_logits(scores_TE, wanted_TE, reduction="none")
        return self.coefficient * over_tokens(loss_TE.mean(1), context)
