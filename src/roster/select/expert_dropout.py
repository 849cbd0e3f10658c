"""Expert dropout: in training a row now and then has to do without some experts (Muqeeth, Liu and Raffel, 2023, SMEAR,
arXiv:2306.03745).

Shape legend: B batch rows, T tokens, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError
from roster.route import AnyRoute


class ExpertDropout(nn.Module):
    """Another selection, among the experts that each row did not lose; it spreads the weights over these.

    Each expert is lost to each row by a chance of its own, and comes back where a row would lose all. Nothing is lost
    at evaluation.

    Args:
        select: chooses among the rest; lost experts score minus infinity.
        chance: that a row loses an expert, in [0, 1).
    """

    def __init__(self, select: nn.Module, chance: float):
        super().__init__()
        if not 0.0 <= chance < 1.0:
            raise RosterError(f"expert dropout: the chance must be at least 0 and below 1, not {chance}")
        self.select, self.chance = select, chance
        self.reads_bias = getattr(select, "reads_bias", False)

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> AnyRoute:
        """The other selection's route."""
        if self.training and self.chance:
            lost_BE = torch.rand(context.batch, scores_TE.shape[1], device=scores_TE.device) < self.chance
            lost_BE &= ~lost_BE.all(1, keepdim=True)
            scores_TE = scores_TE.masked_fill(context.per_token(lost_BE), -torch.inf)
        route: AnyRoute = self.select(scores_TE, context, bias_E)
        return route
