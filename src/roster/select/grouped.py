"""Grouped: another selection in each group of experts by itself (Yang et al., 2021, M6-T, arXiv:2105.15082: expert
prototyping).

Shape legend: T tokens, E experts, K chosen per group, R routed pairs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError
from roster.route import Route


class Grouped(nn.Module):
    """Groups of equal size follow each other; every group sees its own scores only, and the routes are joined.

    Args:
        select: chooses within one group.
        groups: how many; it divides E.
    """

    def __init__(self, select: nn.Module, groups: int):
        super().__init__()
        if groups < 1:
            raise RosterError(f"there must be at least one group of experts, not {groups}")
        self.select, self.groups = select, groups
        self.reads_bias = getattr(select, "reads_bias", False)

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> Route:
        """A route with the pairs of all groups."""
        E = scores_TE.shape[1]
        if E % self.groups:
            raise RosterError(f"{E} experts do not divide into {self.groups} groups of equal size")
        bias = [None] * self.groups if bias_E is None else bias_E.chunk(self.groups)
        parts = zip(scores_TE.chunk(self.groups, dim=1), bias, strict=True)
        routes = [self.select(scores_Te, context, bias_e) for scores_Te, bias_e in parts]
        if all(hasattr(route, "expert_TK") for route in routes):
            expert_TK = torch.cat([self._renumbered(r.expert_TK, n, E) for n, r in enumerate(routes)], dim=1)
            weight_TK = torch.cat([route.weight_TK for route in routes], dim=1)
            return Route.slots(expert_TK, weight_TK, E, full=all(route.full for route in routes))
        return self._joined(routes, E)

    def _renumbered(self, expert: Tensor, group: int, E: int) -> Tensor:
        """Numbers within a group as numbers among all; the group's nobody becomes everyone's."""
        size = E // self.groups
        return torch.where(expert < size, expert + group * size, E)

    def _joined(self, routes: list[Any], E: int) -> Route:
        if not all(isinstance(route, Route) for route in routes):
            raise RosterError(f"groups: {type(self.select).__name__} makes soft routes, which are not joined")
        token_R = torch.cat([route.token_R for route in routes])
        expert_R = torch.cat([self._renumbered(route.expert_R, n, E) for n, route in enumerate(routes)])
        weight_R = torch.cat([route.weight_R for route in routes])
        return Route(token_R, expert_R, weight_R, routes[0].num_tokens, E)
