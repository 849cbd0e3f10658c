"""Prototype score: the size of a token's component along one fixed direction per expert (Arrow).

Shape legend: T tokens, D width, E experts.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from roster.context import Context


class Prototype(nn.Module):
    """`scores = |x V^T|`: a singular direction has no sign, so neither has the score.

    Args:
        vectors_ED: one direction per expert, usually of length 1; zero for an expert that is absent.
    """

    def __init__(self, vectors_ED: Tensor):
        super().__init__()
        self.register_buffer("vectors_ED", vectors_ED.clone())

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """Scores [T, E], not negative."""
        return F.linear(x_TD, self.vectors_ED.to(x_TD.dtype)).abs()
