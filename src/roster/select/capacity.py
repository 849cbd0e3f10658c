"""Capacity: no expert serves more than its share of the pairs times a factor; what overflows is dropped or moved on.

Dropping in the order of the tokens is that of GShard and Switch (Fedus et al., 2021, arXiv:2101.03961, section 2.2);
dropping by score and rerouting are those of Capacity-Aware Inference (He et al., 2025, arXiv:2503.05066).

Who is dropped depends on the other tokens of the call, so a recipe with a capacity is neither batch invariant nor
causal.

Shape legend: T tokens, E experts, R routed pairs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from roster.context import Context
from roster.errors import RosterError, nearest
from roster.processes import one_after_the_other, total
from roster.route import Route

Overflow = Literal["order", "score", "random", "reroute"]
When = Literal["always", "training", "evaluation"]


class CappedRoute(Route):
    """A sparse route that knows which pairs a capacity took from it.

    Args:
        dropped_E: pairs that each expert was chosen for and that nobody serves, int64.
        others: as of `Route`.
    """

    def __init__(self, *others: object, dropped_E: Tensor):
        super().__init__(*others)  # type: ignore[arg-type]
        self.dropped_E = dropped_E

    def keep(self, mask_T: Tensor) -> CappedRoute:
        """The same route with nobody on duty where the mask is False."""
        kept = super().keep(mask_T)
        parts = (kept.token_R, kept.expert_R, kept.weight_R, kept.num_tokens, kept.num_experts, kept.scores_TE)
        return CappedRoute(*parts, dropped_E=self.dropped_E)


def _capped_route(leaves: Iterable[Any], sizes: Any) -> CappedRoute:
    token_R, expert_R, weight_R, scores_TE, dropped_E = leaves
    num_tokens, num_experts = sizes
    return CappedRoute(token_R, expert_R, weight_R, num_tokens, num_experts, scores_TE, dropped_E=dropped_E)


pytree.register_pytree_node(
    CappedRoute,
    lambda r: ([r.token_R, r.expert_R, r.weight_R, r.scores_TE, r.dropped_E], (r.num_tokens, r.num_experts)),
    _capped_route,
)


class Capacity(nn.Module):
    """Another selection, with at most `ceil(factor * pairs / E)` pairs per expert in one call; pads are no pairs.

    Rounding up leaves every expert at least one place, so that a capacity never drops every token.

    Args:
        select: chooses before the capacity is looked at; any part that makes a sparse route.
        factor: capacity relative to an even load, above 0.
        overflow: which pairs lose their place. "order": those of the latest tokens; "score": those with the lowest
            weight; "random": drawn at random, at evaluation always the same for the same positions; "reroute": as
            "score", and a pair that lost its place moves to the best-scored expert that has room and does not serve
            the token yet. There it weighs what a softmax gives the new expert beside the token's other ones.
        when: whether the capacity holds "always", in "training" only, or at "evaluation" only.
        seed: of the random priorities.

    Raises:
        RosterError: a factor that leaves nobody a place, or an unknown way to treat what overflows.
    """

    def __init__(
        self,
        select: nn.Module,
        factor: float,
        overflow: Overflow = "order",
        when: When = "always",
        seed: int = 0,
    ):
        super().__init__()
        if not (factor > 0 and math.isfinite(factor)):
            raise RosterError(f"capacity: a factor of {factor} drops every token; it must be above 0 and finite")
        if overflow not in get_args(Overflow):
            raise RosterError(f"capacity: unknown overflow {overflow!r}: {nearest(overflow, get_args(Overflow))}")
        if when not in get_args(When):
            raise RosterError(f"capacity: unknown when={when!r}: {nearest(when, get_args(When))}")
        self.select, self.factor, self.overflow = select, factor, overflow
        self.when, self.seed = when, seed
        self.reads_bias = getattr(select, "reads_bias", False)

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> Route:
        """A route whose `dropped_E` counts the pairs that nobody serves."""
        route = self.select(scores_TE, context, bias_E)
        if not isinstance(route, Route):
            raise RosterError(f"capacity: {type(self.select).__name__} makes soft routes, which have no pairs to drop")
        if self.when == ("evaluation" if self.training else "training"):
            return route
        mask_T = context.mask_T
        if mask_T is not None:
            route = route.keep(mask_T.to(scores_TE.device))
        token_R, expert_R, weight_R, E = route.token_R, route.expert_R, route.weight_R, route.num_experts
        count_E = route.counts_E
        capacity = torch.ceil(self.factor * total(count_E.sum(), context.processes) / E)
        place_R = self._places_R(expert_R, self._priority_R(route, mask_T), E, context)
        lost_R = (expert_R < E) & (place_R >= capacity)
        kept_R = torch.where(lost_R, E, expert_R)
        if self.overflow == "reroute":
            new_R = reroute(token_R, expert_R, lost_R, scores_TE, capacity)
            # Of one token's softmax weights, w / exp(score) is the same for all.
            scores_TX = torch.cat([scores_TE, scores_TE.new_zeros(len(scores_TE), 1)], dim=1).float()
            gap_R = scores_TX[token_R, new_R] - scores_TX[token_R, expert_R]
            moved_R = new_R != kept_R
            weight_R = torch.where(moved_R, weight_R * gap_R.clamp_max(0.0).exp(), weight_R)
            lost_R, kept_R = lost_R & ~moved_R, new_R
        dropped_E = torch.bincount(torch.where(lost_R, expert_R, E), minlength=E + 1)[:E]
        weight_R = weight_R.masked_fill(lost_R, 0.0)
        return CappedRoute(token_R, kept_R, weight_R, route.num_tokens, E, dropped_E=dropped_E)

    def _places_R(self, expert_R: Tensor, priority_R: Tensor, E: int, context: Context) -> Tensor:
        """Each pair's place in its expert's queue; processes that share a batch queue up together, by their ranks."""
        group = context.processes
        if group is None:
            return places(expert_R, priority_R, E)
        if self.overflow == "reroute":
            raise RosterError(
                "capacity: pairs that overflow cannot be rerouted among several processes, each of which knows the "
                "scores of its own tokens: choose another overflow"
            )
        expert_A, mine = one_after_the_other(expert_R, group)
        priority_A, _ = one_after_the_other(priority_R, group)
        return places(expert_A, priority_A, E)[mine]

    def _priority_R(self, route: Route, mask_T: Tensor | None) -> Tensor:
        """Who gets a place first: higher is better, ties go to the earlier token."""
        if self.overflow == "order":
            return torch.zeros_like(route.weight_R)
        if self.overflow != "random":
            return route.weight_R.detach()
        T, device = route.num_tokens, route.token_R.device
        generator = None if self.training else torch.Generator(device).manual_seed(self.seed)
        chance_T = torch.rand(T, device=device, generator=generator)
        if mask_T is not None:  # padding must not shift what a token draws
            chance_T = chance_T[(mask_T.to(device).cumsum(0) - 1).clamp_min(0)]
        return chance_T[route.token_R]


def places(expert_R: Tensor, priority_R: Tensor, num_experts: int) -> Tensor:
    """Each pair's place in its expert's queue, counted from 0, [R]; nobody (expert == E) has a queue of its own."""
    by_priority_R = priority_R.argsort(descending=True, stable=True)
    order_R = by_priority_R[expert_R[by_priority_R].argsort(stable=True)]
    count_E = torch.bincount(expert_R, minlength=num_experts + 1)
    start_E = count_E.cumsum(0) - count_E
    rank_R = torch.arange(len(expert_R), device=expert_R.device) - start_E[expert_R[order_R]]
    return torch.empty_like(rank_R).scatter_(0, order_R, rank_R)


@torch.no_grad()
def reroute(token_R: Tensor, expert_R: Tensor, lost_R: Tensor, scores_TE: Tensor, capacity: Tensor) -> Tensor:
    """Experts of all pairs after those that lost their place have looked for another, [R]; E for who finds none.

    In every round each token with such a pair asks the best-scored expert that it has not asked and that it did not
    choose; those with the highest scores get the free places.

    Args:
        token_R, expert_R: the pairs as they were chosen.
        lost_R: which of them have no place.
        scores_TE: what tokens rank experts by.
        capacity: pairs per expert.
    """
    R, E, device = len(token_R), scores_TE.shape[1], token_R.device
    new_R, pair_P = torch.where(lost_R, E, expert_R), torch.arange(R, device=device)
    listed = device.type == "cpu" and not torch.compiler.is_compiling()
    if listed:  # where it costs no wait for a device, look only at those who look for a place
        pair_P = lost_R.nonzero()[:, 0]
        token_W, token_P = token_R[pair_P].unique(return_inverse=True)
    else:
        token_W, token_P = torch.arange(len(scores_TE), device=device), token_R
    tried_TX = torch.zeros(len(scores_TE), E + 1, dtype=torch.bool, device=device)
    tried_TX = tried_TX.index_put((token_R, expert_R), torch.ones((), dtype=torch.bool, device=device))
    scores_WE = scores_TE[token_W].masked_fill(tried_TX[token_W, :E], -torch.inf)
    P, W = len(pair_P), len(token_W)
    index_P, waiting_P, new_P = torch.arange(P, device=device), lost_R[pair_P], new_R[pair_P]
    free_E = capacity - torch.bincount(new_R, minlength=E + 1)[:E]
    for _ in range(E - 1):
        # One pair per token asks in a round: the first of those that wait.
        first_W = torch.full((W,), P, device=device)
        first_W = first_W.scatter_reduce(0, token_P, torch.where(waiting_P, index_P, P), "amin")
        best_W, expert_W = scores_WE.max(1)
        asks_W = (first_W < P) & best_W.isfinite()
        if listed and not asks_W.any():
            break
        place_W = places(torch.where(asks_W, expert_W, E), best_W, E)
        gets_W = asks_W & (place_W < free_E[expert_W])
        gets_P = (first_W[token_P] == index_P) & gets_W[token_P]
        new_P = torch.where(gets_P, expert_W[token_P], new_P)
        waiting_P = waiting_P & ~gets_P
        free_E = free_E - torch.bincount(torch.where(gets_W, expert_W, E), minlength=E + 1)[:E]
        scores_WE = scores_WE.scatter(1, expert_W[:, None], -torch.inf)
    return new_R.scatter(0, pair_P, new_P)
