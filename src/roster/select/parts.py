"""Parts: an expert is not one thing; its heads, or its ranks, are chosen and weighed by themselves.

Shape legend: B batch rows, S tokens per row, T tokens, E experts, P parts of an expert.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from roster.context import Context
from roster.errors import RosterError
from roster.route import AnyRoute, Route


class PartRoute(Route):
    """A route in which every part of an expert has a weight of its own; to others it shows their mean per expert.

    Args:
        gate_TEP: weight of each part; an expert all of whose parts weigh zero is off duty.
        scores_TE: the scores that led here; may be None.
    """

    def __init__(self, gate_TEP: Tensor, scores_TE: Tensor | None = None):
        self.gate_TEP, self.scores_TE = gate_TEP, scores_TE
        self.num_tokens, self.num_experts, _ = gate_TEP.shape
        self._order_R = None
        self.spread = {}

    # Pairs are only listed when somebody asks for them: experts that have parts read the gate itself.
    @property
    def token_R(self) -> Tensor:  # type: ignore[override]  # noqa: D102  # as of `Route`
        return torch.arange(self.num_tokens, device=self.gate_TEP.device).repeat_interleave(self.num_experts)

    @property
    def expert_R(self) -> Tensor:  # type: ignore[override]  # noqa: D102  # as of `Route`
        expert_E = torch.arange(self.num_experts, device=self.gate_TEP.device)
        return torch.where((self.gate_TEP != 0).any(2), expert_E, self.num_experts).reshape(-1)

    @property
    def weight_R(self) -> Tensor:  # type: ignore[override]  # noqa: D102  # as of `Route`
        return self.gate_TEP.mean(2).reshape(-1)

    def keep(self, mask_T: Tensor) -> PartRoute:
        """The same route with nobody on duty where the mask is False."""
        return PartRoute(self.gate_TEP.masked_fill(~mask_T[:, None, None], 0.0), self.scores_TE)

    def only(self, present_E: Tensor) -> PartRoute:
        """The same route without the experts that are not present."""
        return PartRoute(self.gate_TEP.masked_fill(~present_E[:, None], 0.0), self.scores_TE)


def parts_of(route: AnyRoute, parts: int) -> Tensor:
    """The weight of every part [T, E, P]; in a route that knows of no parts, all parts of an expert weigh alike."""
    if isinstance(route, PartRoute):
        return route.gate_TEP
    return route.dense()[..., None].expand(-1, -1, parts)


class Parts(nn.Module):
    """Another selection, asked for each part by itself: which experts' first part, which experts' second part, ...

    Args:
        select: chooses among the experts; scores come in as [T, E * P], grouped by expert.
        parts: P.
        join: "own" keeps the weights apart, for experts that have parts; "sum" adds them to one weight per expert.
    """

    reads_bias = False

    def __init__(self, select: nn.Module, parts: int, join: Literal["own", "sum"] = "own"):
        super().__init__()
        if parts < 1:
            raise RosterError(f"experts have at least one part, not {parts}")
        if join not in ("own", "sum"):
            raise RosterError(f"parts: join must be 'own' or 'sum', not {join!r}")
        self.select, self.parts, self.join = select, parts, join

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> Route:
        """A route with weights per part, or their sums."""
        B, S, P = context.batch, context.length, self.parts
        # Parts stand where rows do, so that what is drawn once per row is drawn once per row and part.
        scores_BPSE = scores_TE.view(B, S, -1, P).permute(0, 3, 1, 2)
        inner = Context(B * P, S)
        gate_BPSE = self.select(scores_BPSE.reshape(B * P * S, -1), inner).dense().view(scores_BPSE.shape)
        if self.join == "sum":
            return Route.from_gates(gate_BPSE.sum(1).flatten(0, 1))
        return PartRoute(gate_BPSE.permute(0, 2, 3, 1).flatten(0, 1))


def _part_route(leaves: Iterable[Any], _: Any) -> PartRoute:
    return PartRoute(*leaves)


pytree.register_pytree_node(PartRoute, lambda r: ([r.gate_TEP, r.scores_TE], None), _part_route)
