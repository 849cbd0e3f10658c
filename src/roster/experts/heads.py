"""LoRA experts in heads: every head of a layer's input and output mixes the experts in its own way (Caccia et al.,
2022, arXiv:2211.03831).

Shape legend: T tokens, E experts, H heads, r rank, I in_features, O out_features, i = I / H, o = O / H.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from roster.errors import RosterError
from roster.experts.low_rank import LowRankExperts
from roster.route import AnyRoute
from roster.select.parts import parts_of


class HeadExperts(LowRankExperts):
    """`y_h += sum_e w_eh scale_e B_eh m` with `m = sum_h' sum_e w_eh' A_eh' x_h'`: factors averaged head by head.

    With one head, or the same weights in all, these are `LowRankExperts` with `average="factors"`.

    Args:
        factors: as of `LowRankExperts`, of one rank.
        heads: H, which divides I and O.
        trains: whether the factors get gradients.
    """

    def __init__(self, factors: Sequence[tuple[Tensor, Tensor, float] | None], heads: int, trains: bool = False):
        super().__init__(factors, "factors", trains)
        sizes = (self.A_RI.shape[1], self.B_RO.shape[1])
        if heads < 1 or any(size % heads for size in sizes):
            raise RosterError(f"a layer of {sizes[0]} inputs and {sizes[1]} outputs does not divide into {heads} heads")
        self.heads = heads

    def forward(self, x_TI: Tensor, y_TO: Tensor, route: AnyRoute) -> Tensor:
        """Adds the experts' update to the base layer's output [T, O]."""
        dtype, T, E, H = self.computes_in(x_TI), len(x_TI), self.num_experts, self.heads
        weight_HTE = parts_of(route, H).to(device=x_TI.device, dtype=dtype).permute(2, 0, 1)
        A_RI, B_RO = self.A_RI.to(dtype), self.B_RO.to(dtype)
        R = len(A_RI)
        x_HTi = x_TI.to(dtype).view(T, H, -1).transpose(0, 1)
        middle_HTR = x_HTi @ A_RI.view(R, H, -1).permute(1, 2, 0)
        middle_Tr = (middle_HTR.view(H, T, E, -1) * weight_HTE[..., None]).sum((0, 2))
        scaled_HTE = weight_HTE * self.scale_E.to(dtype)
        spread_HTR = (scaled_HTE[..., None] * middle_Tr[None, :, None]).flatten(2)
        update_HTo = spread_HTR @ B_RO.view(R, H, -1).transpose(0, 1)
        return (y_TO + update_HTo.transpose(0, 1).reshape(T, -1)).to(y_TO.dtype)

    def merged(self, route: AnyRoute) -> tuple[Tensor, Tensor, float]:
        """(A [r, I], B [O, r], scale) that do what the experts do under a route of one token."""
        weight_EH, E, H = parts_of(route, self.heads)[0], self.num_experts, self.heads
        scaled_EH = weight_EH * self.scale_E[:, None]
        A_rI = torch.einsum("eh,erhi->rhi", weight_EH.to(self.A_RI), self.A_RI.view(E, -1, H, self.A_RI.shape[1] // H))
        B_rO = torch.einsum("eh,erho->rho", scaled_EH.to(self.B_RO), self.B_RO.view(E, -1, H, self.B_RO.shape[1] // H))
        return A_rI.flatten(1), B_rO.flatten(1).T, 1.0
