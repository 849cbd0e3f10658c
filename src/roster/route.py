"""Route: who is on duty for which token, and with what weight. The one structure that all parts share.

Shape legend: T tokens, E experts, K chosen per token, R routed (token, expert) pairs, D model width.

Two kinds with the same methods, so that nothing downstream asks which method made them: a sparse `Route` is a list
of pairs, a `SoftRoute` has dense dispatch and combine weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from roster.errors import RosterError


class Route:
    """A sparse route: triples (token, expert, weight), of which those with expert == E stand for "nobody".

    Nobody-pairs keep every shape static (no host synchronisation, no recompilation): they sort behind all
    experts, count in no load and carry weight zero.

    Args:
        token_R: token of each pair, int64.
        expert_R: expert of each pair, int64 in [0, E].
        weight_R: combine weight of each pair.
        num_tokens, num_experts: T and E.
        scores_TE: the scores that led here, for losses and pictures; may be None.

    Attributes:
        duty: the experts that any token may have, in ascending order, where that is known without waiting for a device.
        sole: whether it is known so, too, that every token has the one expert on duty, with a weight of 1.
        kept: where experts keep what they work out from their weights for all steps of one `generate`, by key; None
            where a call stands alone.
        steady: whether every token is a row of its own, as in all other steps that share `kept`, with the same weights.
        spread: what experts make of the weights for all layers of one call, by key.
    """

    full = False  # whether it is known that every pair has an expert
    duty: tuple[int, ...] | None = None
    sole = False
    kept: dict[Any, Any] | None = None
    steady = False

    def __init__(
        self,
        token_R: Tensor,
        expert_R: Tensor,
        weight_R: Tensor,
        num_tokens: int,
        num_experts: int,
        scores_TE: Tensor | None = None,
    ):
        self.token_R, self.expert_R, self.weight_R = token_R, expert_R, weight_R
        self.num_tokens, self.num_experts = num_tokens, num_experts
        self.scores_TE = scores_TE
        self._order_R: Tensor | None = None
        self.spread: dict[Any, Any] = {}

    @classmethod
    def slots(cls, expert_TK: Tensor, weight_TK: Tensor, num_experts: int, *, full: bool = False) -> Route:
        """K choices for every token; an unused slot has expert == E and weight zero. `full` promises there is none."""
        return _SlotRoute(expert_TK, weight_TK, num_experts, full=full)

    @classmethod
    def from_gates(cls, gate_TE: Tensor, chosen_TE: Tensor | None = None) -> Route:
        """A dense gate, which counts only where `chosen_TE` (default: where it is not zero) puts somebody on duty."""
        return _GateRoute(gate_TE, gate_TE != 0 if chosen_TE is None else chosen_TE)

    def keep(self, mask_T: Tensor) -> Route:
        """The same route with nobody on duty where the mask is False."""
        mask_R = mask_T[self.token_R]
        return Route(
            self.token_R,
            torch.where(mask_R, self.expert_R, self.num_experts),
            self.weight_R.masked_fill(~mask_R, 0.0),
            self.num_tokens,
            self.num_experts,
            self.scores_TE,
        )

    @property
    def counts_E(self) -> Tensor:
        """Tokens per expert, int64 [E]."""
        return torch.bincount(self.expert_R, minlength=self.num_experts + 1)[: self.num_experts]

    @property
    def order_R(self) -> Tensor:
        """The permutation that groups the pairs by expert, nobody last; stable in the order of tokens."""
        if self._order_R is None:
            self._order_R = torch.argsort(self.expert_R, stable=True)
        return self._order_R

    def triples(self) -> tuple[Tensor, Tensor, Tensor]:
        """(token_R, expert_R, weight_R) sorted by expert."""
        order = self.order_R
        return self.token_R[order], self.expert_R[order], self.weight_R[order]

    def of(self, experts: Sequence[int]) -> Tensor:
        """Combine weights of some experts, [T, len(experts)]."""
        weight_TU: Tensor = self.dense()[:, list(experts)]
        return weight_TU

    def first(self, count: int) -> Route:
        """The same route among the first experts only; pairs of the others become nobody's."""
        ours_R = self.expert_R < count
        expert_R, weight_R = torch.where(ours_R, self.expert_R, count), self.weight_R.masked_fill(~ours_R, 0.0)
        return Route(self.token_R, expert_R, weight_R, self.num_tokens, count)

    def pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """(token_R, weight_R, counts_E): pairs sorted by expert, nobody's last or left out, and counts."""
        order = self.order_R
        return self.token_R[order], self.weight_R[order], self.counts_E

    def through(self, experts: nn.Module, x_TD: Tensor) -> Tensor:
        """What the experts make of the tokens, [T, D]: `combine(experts(dispatch(x_TD)))`.

        Experts that can do all three at once offer `serve(x_TD, route)`, which they are called for with the route
        itself: a method called past the module would run none of its hooks, by which offloaded weights are fetched.
        """
        if hasattr(experts, "serve"):
            y_TD: Tensor = experts(x_TD, self)
            return y_TD
        return self.combine(experts(self.dispatch(x_TD), self.counts_E))

    def dispatch(self, x_TD: Tensor) -> Tensor:
        """The rows that the experts read, grouped by expert: [R, D]; nobody's rows come last."""
        rows_RD = x_TD[self.token_R[self.order_R]]
        if self.full or not rows_RD.requires_grad:
            return rows_RD
        # A grouped matmul leaves the gradient of nobody's rows undefined; it must not reach their tokens.
        return rows_RD.masked_fill((self.expert_R[self.order_R] == self.num_experts)[:, None], 0.0)

    def combine(self, rows_RD: Tensor) -> Tensor:
        """Weighted sum of the experts' rows per token, [T, D]; zero for a token that nobody serves."""
        token_R, expert_R, weight_R = self.triples()
        if not self.full:  # nobody's rows may hold anything, NaN included, and NaN * 0 is NaN
            rows_RD = rows_RD.masked_fill((expert_R == self.num_experts)[:, None], 0.0)
        out_TD = rows_RD.new_zeros(self.num_tokens, rows_RD.shape[1])
        return out_TD.index_add(0, token_R, rows_RD * weight_R[:, None].to(rows_RD.dtype))

    def dense(self) -> Tensor:
        """Combine weights as a matrix [T, E]."""
        E = self.num_experts
        gate = self.weight_R.new_zeros(self.num_tokens * (E + 1))
        gate = gate.index_add(0, self.token_R * (E + 1) + self.expert_R, self.weight_R)
        return gate.view(self.num_tokens, E + 1)[:, :E]

    def chosen(self) -> Tensor:
        """Who is on duty, bool [T, E]; an expert with weight zero can still be on duty."""
        E = self.num_experts
        on_duty = torch.zeros(self.num_tokens * (E + 1), dtype=torch.bool, device=self.expert_R.device)
        on_duty = on_duty.index_fill(0, self.token_R * (E + 1) + self.expert_R, True)
        return on_duty.view(self.num_tokens, E + 1)[:, :E]


class _SlotRoute(Route):
    """A sparse route that began as K slots per token: the pairs are only listed when somebody asks for them."""

    def __init__(
        self,
        expert_TK: Tensor,
        weight_TK: Tensor,
        num_experts: int,
        scores_TE: Tensor | None = None,
        full: bool = False,
    ):
        self.expert_TK, self.weight_TK = expert_TK, weight_TK
        self.num_tokens, self.num_experts = expert_TK.shape[0], num_experts
        self.scores_TE, self.full = scores_TE, full
        self._order_R = None
        self.spread = {}
        self._gate_TE: Tensor | None = None
        self._some: tuple[tuple[int, ...], Tensor] | None = None

    @property
    def token_R(self) -> Tensor:  # type: ignore[override]
        token_T = torch.arange(self.num_tokens, device=self.expert_TK.device)
        return token_T.repeat_interleave(self.expert_TK.shape[1])

    @property
    def expert_R(self) -> Tensor:  # type: ignore[override]
        return self.expert_TK.reshape(-1)

    @property
    def weight_R(self) -> Tensor:  # type: ignore[override]
        return self.weight_TK.reshape(-1)

    def keep(self, mask_T: Tensor) -> Route:
        off_T1 = ~mask_T[:, None]
        kept = _SlotRoute(
            self.expert_TK.masked_fill(off_T1, self.num_experts),
            self.weight_TK.masked_fill(off_T1, 0.0),
            self.num_experts,
            self.scores_TE,
        )
        kept.duty, kept.kept = self.duty, self.kept
        return kept

    def pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        order = self.order_R
        return order // self.expert_TK.shape[1], self.weight_R[order], self.counts_E

    def of(self, experts: Sequence[int]) -> Tensor:
        key = tuple(experts)
        if self._some is None or self._some[0] != key:  # one route serves all layers
            expert_U = torch.tensor(key, device=self.expert_TK.device)
            gate_TU = (self.weight_TK[:, :, None] * (self.expert_TK[:, :, None] == expert_U)).sum(1)
            self._some = key, gate_TU
        return self._some[1]

    def first(self, count: int) -> Route:
        theirs_TK = self.expert_TK >= count
        expert_TK, weight_TK = self.expert_TK.clamp_max(count), self.weight_TK.masked_fill(theirs_TK, 0.0)
        return _SlotRoute(expert_TK, weight_TK, count)

    def dense(self) -> Tensor:
        if self._gate_TE is None:  # one route may serve all layers of a block
            columns = self.num_experts if self.full else self.num_experts + 1  # the last takes what is nobody's
            gate = self.weight_TK.new_zeros(self.num_tokens, columns).scatter_(1, self.expert_TK, self.weight_TK)
            self._gate_TE = gate if self.full else gate[:, : self.num_experts]
        return self._gate_TE


class _GateRoute(Route):
    """A sparse route that began as a gate [T, E]: the pairs are only listed when somebody asks for them."""

    def __init__(self, gate_TE: Tensor, chosen_TE: Tensor, scores_TE: Tensor | None = None):
        self.gate_TE, self.chosen_TE = gate_TE, chosen_TE
        self.num_tokens, self.num_experts = gate_TE.shape
        self.scores_TE = scores_TE
        self._order_R = None
        self.spread = {}
        self._dense_TE: Tensor | None = None

    @property
    def token_R(self) -> Tensor:  # type: ignore[override]
        return torch.arange(self.num_tokens, device=self.gate_TE.device).repeat_interleave(self.num_experts)

    @property
    def expert_R(self) -> Tensor:  # type: ignore[override]
        expert_E = torch.arange(self.num_experts, device=self.gate_TE.device)
        return torch.where(self.chosen_TE, expert_E, self.num_experts).reshape(-1)

    @property
    def weight_R(self) -> Tensor:  # type: ignore[override]
        return self.dense().reshape(-1)

    @property
    def counts_E(self) -> Tensor:
        return self.chosen_TE.sum(0)

    def keep(self, mask_T: Tensor) -> Route:
        return _GateRoute(self.gate_TE, self.chosen_TE & mask_T[:, None], self.scores_TE)

    def pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        if self.gate_TE.device.type != "cpu" or torch.compiler.is_compiling():
            return super().pairs()
        # Most of the T * E pairs are nobody's. Where it costs no wait for a device, list only the others; NumPy finds
        # them in half the time.
        place_R = torch.from_numpy(np.flatnonzero(self.chosen_TE.T.contiguous().numpy()))
        expert_R, token_R = place_R // self.num_tokens, place_R % self.num_tokens
        return token_R, self.gate_TE[token_R, expert_R], torch.bincount(expert_R, minlength=self.num_experts)

    def first(self, count: int) -> Route:
        return _GateRoute(self.gate_TE[:, :count], self.chosen_TE[:, :count])

    def dense(self) -> Tensor:
        if self._dense_TE is None:
            self._dense_TE = torch.where(self.chosen_TE, self.gate_TE, 0.0)
        return self._dense_TE

    def chosen(self) -> Tensor:
        return self.chosen_TE


class SoftRoute:
    """A soft route: every row that an expert reads is a weighted mean of tokens (Soft MoE, SMEAR).

    Args:
        dispatch_TR: weight of each token in each row; rows are grouped by expert.
        combine_TR: weight of each row in each token's output.
        num_experts: E; it divides R, and every expert owns R / E rows.
    """

    def __init__(self, dispatch_TR: Tensor, combine_TR: Tensor, num_experts: int, scores_TE: Tensor | None = None):
        self.dispatch_TR, self.combine_TR, self.num_experts = dispatch_TR, combine_TR, num_experts
        self.num_tokens = dispatch_TR.shape[0]
        self.scores_TE = scores_TE

    def keep(self, mask_T: Tensor) -> SoftRoute:
        """The same route with masked tokens in no row and served by nobody."""
        off = ~mask_T[:, None]
        return SoftRoute(
            self.dispatch_TR.masked_fill(off, 0.0),
            self.combine_TR.masked_fill(off, 0.0),
            self.num_experts,
            self.scores_TE,
        )

    @property
    def counts_E(self) -> Tensor:
        """Rows per expert, int64 [E]."""
        R = self.dispatch_TR.shape[1]
        return torch.full((self.num_experts,), R // self.num_experts, device=self.dispatch_TR.device)

    def dispatch(self, x_TD: Tensor) -> Tensor:
        """The rows that the experts read, grouped by expert: [R, D]."""
        return self.dispatch_TR.T.to(x_TD.dtype) @ x_TD

    def through(self, experts: nn.Module, x_TD: Tensor) -> Tensor:
        """What the experts make of the tokens, [T, D]: `combine(experts(dispatch(x_TD)))`."""
        return self.combine(experts(self.dispatch(x_TD), self.counts_E))

    def combine(self, rows_RD: Tensor) -> Tensor:
        """Weighted sum of all rows per token, [T, D]."""
        return self.combine_TR.to(rows_RD.dtype) @ rows_RD

    def dense(self) -> Tensor:
        """Combine weights summed per expert, [T, E]."""
        return self.combine_TR.view(self.num_tokens, self.num_experts, -1).sum(-1)

    def chosen(self) -> Tensor:
        """Every expert serves every token that has any weight, bool [T, E]."""
        return self.dense() != 0


AnyRoute = Route | SoftRoute


def scores_of(route: AnyRoute) -> Tensor:
    """The scores that led to a route, [T, E], for the losses that read them; every router keeps them.

    Raises:
        RosterError: a route that was made by hand, without scores.
    """
    if route.scores_TE is None:
        raise RosterError("this loss reads the scores that led to a route, and this route has none: pass scores_TE=")
    return route.scores_TE


def _route(leaves: Iterable[Any], sizes: Any) -> Route:
    token_R, expert_R, weight_R, scores_TE = leaves
    num_tokens, num_experts = sizes
    return Route(token_R, expert_R, weight_R, num_tokens, num_experts, scores_TE)


def _slot_route(leaves: Iterable[Any], rest: Any) -> _SlotRoute:
    expert_TK, weight_TK, scores_TE = leaves
    return _SlotRoute(expert_TK, weight_TK, rest[0], scores_TE, rest[1])


def _soft_route(leaves: Iterable[Any], num_experts: Any) -> SoftRoute:
    dispatch_TR, combine_TR, scores_TE = leaves
    return SoftRoute(dispatch_TR, combine_TR, num_experts, scores_TE)


# Routes cross activation checkpoints as explicit tensors (see routed/checkpoint.py), hence pytrees.
pytree.register_pytree_node(
    Route,
    lambda r: ([r.token_R, r.expert_R, r.weight_R, r.scores_TE], (r.num_tokens, r.num_experts)),
    _route,
)
pytree.register_pytree_node(
    _SlotRoute,
    lambda r: ([r.expert_TK, r.weight_TK, r.scores_TE], (r.num_experts, r.full)),
    _slot_route,
)
pytree.register_pytree_node(
    _GateRoute,
    lambda r: ([r.gate_TE, r.chosen_TE, r.scores_TE], None),
    lambda leaves, _: _GateRoute(*leaves),
)
pytree.register_pytree_node(
    SoftRoute,
    lambda r: ([r.dispatch_TR, r.combine_TR, r.scores_TE], r.num_experts),
    _soft_route,
)
