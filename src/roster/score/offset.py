"""Offset: a learned constant per expert on top of another score, for experts that should start on or off duty.

Shape legend: T tokens, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.context import Context


class Offset(nn.Module):
    """`scores = inner(x) + b`.

    Args:
        inner: another score.
        num_experts: E.
        start: of every entry of b.
    """

    def __init__(self, inner: nn.Module, num_experts: int, start: float = 0.0):
        super().__init__()
        self.inner = inner
        self.offset_E = nn.Parameter(torch.full((num_experts,), float(start)))

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """Scores [T, E]."""
        scores_TE = self.inner(x_TD, context)
        moved_TE: Tensor = scores_TE + self.offset_E.to(scores_TE.dtype)
        return moved_TE
