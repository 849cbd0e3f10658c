"""Positions: which token of its row each token is, with padding and earlier decode steps accounted for.

Shape legend: B batch rows, S tokens of this call.
"""

from __future__ import annotations

import torch
from torch import Tensor

from roster.context import Context


def positions(context: Context, device: torch.device) -> Tensor:
    """Real tokens of the row before each token, int64 [B, S]; that of the nearest real token before it for a pad.

    Layouts whose parts ask for positions must say `remembers=True`, or every decode step would begin at 0.
    """
    if "positions" not in context.memory:
        if context.mask_BS is None:
            real_BS = torch.ones(context.batch, context.length, dtype=torch.bool, device=device)
        else:
            real_BS = context.mask_BS.to(device)
        position_BS = (real_BS.cumsum(1) - 1).clamp_min(0)
        if context.history is not None:
            so_far_BL1 = context.history.append("positions", real_BS[..., None].float())
            before_B1 = so_far_BL1.sum(1).long() - real_BS.sum(1, keepdim=True)
            position_BS = position_BS + before_B1
        context.memory["positions"] = position_BS
    position: Tensor = context.memory["positions"].to(device)
    return position
