"""Quantisation loss: draws codes and tokens to each other (van den Oord et al., 2017, arXiv:1711.00937, eq. 3).

Shape legend: T tokens, E experts.
"""

from __future__ import annotations

from torch import Tensor, nn

from roster.balance.mean import over_tokens
from roster.context import Context
from roster.route import AnyRoute, scores_of


class Quantization(nn.Module):
    """`coefficient * mean over real tokens of the distance to the nearest code`; wants scores that are minus distances.

    How the gradient is shared between code and token is the score's business (`score.Codebook`).

    Args:
        coefficient: weight of the loss.
    """

    def __init__(self, coefficient: float = 1.0):
        super().__init__()
        self.coefficient = coefficient

    def forward(self, route: AnyRoute, context: Context) -> Tensor:
        """A scalar."""
        return self.coefficient * over_tokens(-scores_of(route).amax(1), context)
