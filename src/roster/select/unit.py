"""Unit: whoever is chosen counts in full.

Shape legend: T tokens, E experts, R routed pairs.
"""

from __future__ import annotations

from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError
from roster.route import Route


class Unit(nn.Module):
    """Another selection with all weights one, so that choosing everybody gives the plain sum of the experts.

    Args:
        select: any part that makes a sparse route.
        straight_through: whether gradients reach the scores as if the weights were the other selection's.
    """

    def __init__(self, select: nn.Module, straight_through: bool = True):
        super().__init__()
        self.select, self.straight_through = select, straight_through
        self.reads_bias = getattr(select, "reads_bias", False)

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> Route:
        """The other selection's choice."""
        route = self.select(scores_TE, context, bias_E)
        if not isinstance(route, Route):
            raise RosterError(f"unit weights: {type(self.select).__name__} makes soft routes, which choose nobody")
        weight_R = (route.expert_R < route.num_experts).to(scores_TE.dtype)
        if self.straight_through:
            weight_R = weight_R + (route.weight_R - route.weight_R.detach())
        return Route(route.token_R, route.expert_R, weight_R, route.num_tokens, route.num_experts)
