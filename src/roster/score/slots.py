"""Slot score: how well each token suits each slot of each expert, by cosine and one learned scale (Puigcerver et al.,
2023, arXiv:2308.00951, section 2.3).

Shape legend: T tokens, D width, E experts, P slots per expert.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roster.context import Context
from roster.errors import RosterError
from roster.score.projection import project


class Slots(nn.Module):
    """`scores = scale * cos(x, phi)`, for `select.Soft` with as many slots.

    Args:
        width: D.
        num_experts: E.
        slots: P.
    """

    def __init__(self, width: int, num_experts: int, slots: int):
        super().__init__()
        if slots < 1:
            raise RosterError(f"every expert needs at least one slot, not {slots}")
        self.slots_EPD = nn.Parameter(torch.randn(num_experts, slots, width) * width**-0.5)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """Scores [T, E * P], grouped by expert."""
        directions_ND = self.scale * F.normalize(self.slots_EPD.flatten(0, 1), dim=1)
        return project(F.normalize(x_TD, dim=1), directions_ND)
