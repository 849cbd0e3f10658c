"""Experts that cost nothing, behind experts that do: a token that needs less work is sent to one of them.

Shape legend: T tokens, R rows grouped by expert, E experts that compute, Z null experts, C constant ones among them,
D model width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from roster.errors import RosterError, nearest
from roster.route import Route

Kind = Literal["zero", "copy", "constant"]


class WithNull(nn.Module):
    """`inner`'s experts first, then null experts: "zero" adds nothing (AdaMoE: Zeng et al., 2024, arXiv:2406.13233),
    "copy" returns the token, "constant" a mean of the token and a vector that is learned, weighted by a softmax over
    two scores of the token (MoE++: Jin et al., 2024, arXiv:2410.07348).

    Args:
        inner: experts with `num_experts`.
        kinds: of each null expert.
        width: D; only constant experts need it.

    Raises:
        RosterError: a kind that does not exist, or constant experts without a width.
    """

    copies_Z: Tensor
    at_C: Tensor

    def __init__(self, inner: nn.Module, kinds: Sequence[Kind], width: int = 0):
        super().__init__()
        for kind in kinds:
            if kind not in get_args(Kind):
                raise RosterError(f"there is no null expert {kind!r}; {nearest(kind, get_args(Kind))}")
        self.inner, self.kinds = inner, tuple(kinds)
        self.num_experts = cast(int, inner.num_experts) + len(self.kinds)
        constants = [index for index, kind in enumerate(self.kinds) if kind == "constant"]
        if constants and width < 1:
            raise RosterError("constant experts need the model's width")
        self.register_buffer("copies_Z", torch.tensor([kind == "copy" for kind in self.kinds]).float(), False)
        self.register_buffer("at_C", torch.tensor(constants, dtype=torch.long), False)
        if constants:
            self.constant_CD = nn.Parameter(torch.zeros(len(constants), width))
            self.mean_CD2 = nn.Parameter(torch.zeros(len(constants), width, 2))

    def forward(self, rows_RD: Tensor, counts_E: Tensor | Route) -> Tensor:
        """Rows out for rows in; rows behind the last group belong to nobody and come back undefined.

        Called with a route instead of counts: see `serve`.
        """
        if isinstance(counts_E, Route):
            return self.serve(rows_RD, counts_E)
        E, Z = (self.num_experts - len(self.kinds)), len(self.kinds)
        out_RD = self.inner(rows_RD, counts_E[:E])
        row_R = torch.arange(len(rows_RD), device=rows_RD.device)
        null_R = torch.searchsorted(counts_E.cumsum(0), row_R, right=True) - E
        # One weight per null expert and row, all zero where an expert that computes is on duty.
        gate_RZ = (null_R[:, None] == torch.arange(Z, device=rows_RD.device)).to(rows_RD.dtype)
        # What nobody's rows hold must not reach the gradients of the parameters here.
        read_RD = rows_RD.masked_fill((null_R >= Z)[:, None], 0.0)
        return torch.where((null_R < 0)[:, None], out_RD, self._null(read_RD, gate_RZ))

    def serve(self, x_TD: Tensor, route: Route) -> Tensor:
        """What all experts make of the tokens; null experts need no rows of their own."""
        E = self.num_experts - len(self.kinds)
        out_TD = route.first(E).through(self.inner, x_TD)
        return out_TD + self._null(x_TD, route.dense()[:, E:].to(x_TD.dtype))

    def _null(self, x_TD: Tensor, gate_TZ: Tensor) -> Tensor:
        out_TD = (gate_TZ @ self.copies_Z.to(gate_TZ.dtype))[:, None] * x_TD
        if len(self.at_C) == 0:
            return out_TD
        share_TC2 = torch.einsum("td,cdn->tcn", x_TD, self.mean_CD2).softmax(-1) * gate_TZ[:, self.at_C, None]
        return out_TD + share_TC2[..., 0].sum(1, keepdim=True) * x_TD + share_TC2[..., 1] @ self.constant_CD
