"""LoRA experts that read slots, weighted means of tokens, where others read tokens (Wu et al., 2023, Omni-SMoLA,
arXiv:2312.00968; after Soft MoE, arXiv:2308.00951).

Shape legend: T tokens, E experts, r rank of one expert, R rows that the experts read, n = R / E, I in_features,
O out_features.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from roster.experts.low_rank import LowRankExperts
from roster.route import AnyRoute, SoftRoute


class SlotExperts(LowRankExperts):
    """`y += C concat_e(scale_e B_e A_e (D^T x)_e)`, with the dispatch D and combine weights C of a soft route.

    Under a route that chooses experts, such as one that the caller gives, they are `LowRankExperts`.
    """

    def forward(self, x_TI: Tensor, y_TO: Tensor, route: AnyRoute) -> Tensor:
        """Adds the experts' update to the base layer's output [T, O]."""
        if not isinstance(route, SoftRoute):
            return super().forward(x_TI, y_TO, route)
        dtype = self.computes_in(x_TI)
        rows_EnI = route.dispatch(x_TI.to(dtype)).unflatten(0, (self.num_experts, -1))
        outputs = []
        for rows_nI, expert in zip(rows_EnI, range(self.num_experts), strict=True):
            # A soft route gives every expert its rows, so that none of them is absent.
            A_rI, B_Or, scale = cast(tuple[Tensor, Tensor, float], self.expert(expert))
            outputs.append(rows_nI @ A_rI.to(dtype).T @ (scale * B_Or.to(dtype)).T)
        return (y_TO + route.combine(torch.cat(outputs))).to(y_TO.dtype)
