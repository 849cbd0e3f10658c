"""LoRA experts of one linear layer (Hu et al., 2021, arXiv:2106.09685), mixed by a route.

E experts of rank r are one low-rank pair of rank R = E * r with a gate on its middle: two matmuls and one multiply,
no loop over experts. When only a few of many ranks are on duty, the tokens are sorted by expert instead and meet
only the factors they need. `_reference` says the same as plainly as possible; the tests hold the fast paths to it.

Shape legend: T tokens, E experts, r rank of one expert, R all ranks together, I in_features, O out_features,
P routed (token, expert) pairs, K chosen per token.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roster.dispatch import fits_grouped_mm
from roster.errors import RosterError
from roster.experts.on_duty import OnDuty
from roster.route import AnyRoute, Route

# Below this many ranks in all, multiplying every one of them costs less than sorting (measured on CPU:
# benchmarks/mixture.py).
GROUPED_FROM_RANKS = 512


class LowRankExperts(OnDuty):
    """`y += sum_e g_e * scale_e * B_e A_e x`, with the gate g_e of the route.

    Args:
        factors: per expert (A [r, I], B [O, r], scale), or None for an expert without an update here.
        average: what a gate weighs. "updates": the products B_e A_e, which is a mixture of the experts' functions.
            "factors": A and B separately, `(sum g_e B_e)(sum g_e A_e)`, as Polytropon does; it needs equal ranks.
        trains: whether the factors get gradients.
    """

    owner_R: Tensor
    scale_E: Tensor

    def __init__(
        self,
        factors: Sequence[tuple[Tensor, Tensor, float] | None],
        average: Literal["updates", "factors"] = "updates",
        trains: bool = False,
    ):
        super().__init__()
        present = [each for each in factors if each is not None]
        self.ranks = [0 if each is None else each[0].shape[0] for each in factors]
        self.scales = [0.0 if each is None else float(each[2]) for each in factors]
        self.starts = list(accumulate(self.ranks, initial=0))
        self.average = average
        self.A_RI = nn.Parameter(torch.cat([A for A, _, _ in present]).contiguous(), requires_grad=trains)
        # B is kept transposed: an expert's rows are then contiguous, for gathering and for sorted groups.
        self.B_RO = nn.Parameter(torch.cat([B.T for _, B, _ in present]).contiguous(), requires_grad=trains)
        self.widths = self.A_RI.shape[1] + self.B_RO.shape[1]
        self.rank = self.ranks[0] if len(set(self.ranks)) == 1 else None
        if average == "factors" and self.rank is None:
            raise RosterError(f"averaging factors needs the same rank for every expert, not {self.ranks}")
        self.may_group = (
            self.rank is not None and average == "updates" and self.rank * len(self.ranks) >= GROUPED_FROM_RANKS
        )
        self.scale = self.scales[0] if len(set(self.scales)) == 1 else None
        owner_R = torch.arange(len(self.ranks)).repeat_interleave(torch.tensor(self.ranks))
        self.register_buffer("owner_R", owner_R, persistent=False)
        self.register_buffer("scale_E", torch.tensor(self.scales), persistent=False)

    @property
    def num_experts(self) -> int:
        """E."""
        return len(self.ranks)

    def expert(self, index: int, factors: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor, float] | None:
        """(A [r, I], B [O, r], scale) of one expert as it is now, or None where it has no update.

        Args:
            index: which expert.
            factors: (A_RI, B_RO) to take it from instead of this module's own (gathered from a sharded model).
        """
        if not self.ranks[index]:
            return None
        A_RI, B_RO = (self.A_RI, self.B_RO) if factors is None else factors
        rows = slice(self.starts[index], self.starts[index] + self.ranks[index])
        return A_RI[rows], B_RO[rows].T, self.scales[index]

    def forward(self, x_TI: Tensor, y_TO: Tensor, route: AnyRoute) -> Tensor:
        """Adds the experts' updates to the base layer's output.

        Args:
            x_TI: the layer's input.
            y_TO: the layer's output; written to in place when no gradients are recorded.
            route: over the same T tokens.

        Returns:
            [T, O]
        """
        rank = self.rank
        if isinstance(route, Route) and route.duty is not None and self.average == "updates":
            return self.few(x_TI, y_TO, route)
        if self.may_group and rank is not None and isinstance(route, Route) and self._pays_to_group(x_TI, route, rank):
            return self._grouped(x_TI, y_TO, route, rank)
        return self._dense(x_TI, y_TO, route.dense())

    def _pays_to_group(self, x_TI: Tensor, route: Route, rank: int) -> bool:
        chosen_TK = getattr(route, "expert_TK", None)
        few = chosen_TK is not None and 4 * chosen_TK.shape[1] <= self.num_experts
        return few and fits_grouped_mm(x_TI, self.B_RO.view(self.num_experts, rank, -1))

    def _dense(self, x_TI: Tensor, y_TO: Tensor, gate_TE: Tensor) -> Tensor:
        """Multiplies all ranks and lets the gate silence those off duty."""
        dtype, T = self.computes_in(x_TI), x_TI.shape[0]
        A_RI, B_RO = self.A_RI.to(dtype), self.B_RO.to(dtype)
        x_TI = x_TI.to(dtype)
        middle_TR = F.linear(x_TI, A_RI)
        gate_TE = gate_TE.to(device=x_TI.device, dtype=dtype)
        if self.average == "factors" and self.rank is not None:
            middle_TEr = middle_TR.view(T, -1, self.rank)
            middle_TR = (middle_TEr * gate_TE.unsqueeze(-1)).sum(1, keepdim=True).expand_as(middle_TEr).reshape(T, -1)
        scale = self.scale
        if scale is None:
            gate_TE, scale = gate_TE * self.scale_E.to(dtype), 1.0
        gate = gate_TE.unsqueeze(-1) if self.rank else gate_TE[:, self.owner_R]
        middle = middle_TR.view(T, -1, self.rank) if self.rank else middle_TR
        if y_TO.dtype != middle.dtype or torch.is_autocast_enabled(x_TI.device.type):
            update_TO = (middle * gate).view(T, -1) @ B_RO
            return (y_TO + update_TO * scale).to(y_TO.dtype)  # added in the wider type, rounded once
        if torch.is_grad_enabled():
            return torch.addmm(y_TO, (middle * gate).view(T, -1), B_RO, alpha=scale)
        return y_TO.addmm_(middle.mul_(gate).view(T, -1), B_RO, alpha=scale)

    @property
    def stored(self) -> torch.dtype:
        """The factors' type."""
        return self.A_RI.dtype

    def taken(self, duty: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(A_rI, B_rO) of some experts, one below the other."""
        rows = [slice(self.starts[e], self.starts[e] + self.ranks[e]) for e in duty]
        return _rows(self.A_RI, rows), _rows(self.B_RO, rows)

    def _grouped(self, x_TI: Tensor, y_TO: Tensor, route: Route, rank: int) -> Tensor:
        """Sorts the (token, expert) pairs by expert; each group meets one expert's factors."""
        dtype, E, r = self.computes_in(x_TI), self.num_experts, rank
        x_TI = x_TI.to(dtype)
        token_P, expert_P, weight_P = route.triples()
        ends_E = route.counts_E.cumsum(0).to(torch.int32)
        A_EIr = self.A_RI.to(dtype).view(E, r, -1).transpose(1, 2)
        B_ErO = self.B_RO.to(dtype).view(E, r, -1)
        weight_P = weight_P * (self.scale if self.scale is not None else self.scale_E[expert_P.clamp_max(E - 1)])
        # Pairs of nobody lie behind the last group, where grouped_mm leaves what it finds in its output, and in the
        # gradient of its input: both sides of both products are masked.
        nobody_P1 = None if getattr(route, "full", False) else (expert_P == E)[:, None]
        x_PI = _without(x_TI.index_select(0, token_P), nobody_P1 if x_TI.requires_grad else None)
        middle_Pr = _without(F.grouped_mm(x_PI, A_EIr, offs=ends_E), nobody_P1)
        middle_Pr = _without(middle_Pr * weight_P[:, None].to(dtype), nobody_P1)
        update_PO = _without(F.grouped_mm(middle_Pr, B_ErO, offs=ends_E), nobody_P1)
        if y_TO.dtype != update_PO.dtype:
            wide = torch.promote_types(y_TO.dtype, update_PO.dtype)
            return y_TO.to(wide).index_add(0, token_P, update_PO.to(wide)).to(y_TO.dtype)
        if torch.is_grad_enabled():
            return y_TO.index_add(0, token_P, update_PO)
        return y_TO.index_add_(0, token_P, update_PO)

    def _reference(self, x_TI: Tensor, y_TO: Tensor, route: AnyRoute) -> Tensor:
        """One expert after the other."""
        gate_TE = route.dense()
        experts = [(e, factors) for e in range(self.num_experts) if (factors := self.expert(e)) is not None]
        if self.average == "factors":
            A_TrI = sum(gate_TE[:, e, None, None] * A for e, (A, _, _) in experts)
            B_TOr = sum(gate_TE[:, e, None, None] * B * scale for e, (_, B, scale) in experts)
            return y_TO + torch.einsum("tor,tri,ti->to", B_TOr, A_TrI, x_TI)
        for e, (A, B, scale) in experts:
            y_TO = y_TO + gate_TE[:, e, None] * scale * (x_TI @ A.T @ B.T)
        return y_TO


def _rows(factors_RX: Tensor, rows: list[slice]) -> Tensor:
    """Some experts' rows: a view where they are one expert's."""
    return factors_RX[rows[0]] if len(rows) == 1 else torch.cat([factors_RX[each] for each in rows])


def _without(rows: Tensor, nobody_P1: Tensor | None) -> Tensor:
    """Rows with those of nobody set to zero; None says that there are none."""
    return rows if nobody_P1 is None else rows.masked_fill(nobody_P1, 0.0)
