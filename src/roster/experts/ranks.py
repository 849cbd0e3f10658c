"""LoRA experts whose ranks are weighed one by one: `B diag(g) A` (Zhao et al., 2025, SMoRA, arXiv:2501.15103).

Shape legend: T tokens, E experts, r rank of one expert, R all ranks together, P largest rank, I in_features,
O out_features.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from roster.experts.low_rank import LowRankExperts
from roster.route import AnyRoute
from roster.select.parts import parts_of


class RankExperts(LowRankExperts):
    """`y += sum over ranks of g_er scale_e b_er (a_er . x)`; with one weight for all ranks of an expert,
    `LowRankExperts`.

    Args:
        factors: as of `LowRankExperts`; ranks may differ.
        trains: whether the factors get gradients.
    """

    place_R: Tensor

    def __init__(self, factors: Sequence[tuple[Tensor, Tensor, float] | None], trains: bool = False):
        super().__init__(factors, "updates", trains)
        within = [expert * max(self.ranks) + rank for expert, r in enumerate(self.ranks) for rank in range(r)]
        self.register_buffer("place_R", torch.tensor(within), persistent=False)

    def forward(self, x_TI: Tensor, y_TO: Tensor, route: AnyRoute) -> Tensor:
        """Adds the experts' update to the base layer's output [T, O]; in place when no gradients are recorded."""
        dtype, scale = self.computes_in(x_TI), self.scale
        gate_TEP = parts_of(route, max(self.ranks)).to(device=x_TI.device, dtype=dtype)
        if scale is None:
            gate_TEP, scale = gate_TEP * self.scale_E.to(dtype)[:, None], 1.0
        gate_TR = gate_TEP.flatten(1) if self.rank else gate_TEP.flatten(1)[:, self.place_R]
        middle_TR, B_RO = F.linear(x_TI.to(dtype), self.A_RI.to(dtype)), self.B_RO.to(dtype)
        if y_TO.dtype != middle_TR.dtype or torch.is_autocast_enabled(x_TI.device.type):
            return (y_TO + (middle_TR * gate_TR) @ B_RO * scale).to(y_TO.dtype)  # rounded once
        if torch.is_grad_enabled():
            return torch.addmm(y_TO, middle_TR * gate_TR, B_RO, alpha=scale)
        return y_TO.addmm_(middle_TR.mul_(gate_TR), B_RO, alpha=scale)
