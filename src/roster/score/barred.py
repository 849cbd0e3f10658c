"""Barred: another score, with some experts out of the question.

Shape legend: T tokens, D width, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError


class Barred(nn.Module):
    """`scores = -inf` where an expert is barred.

    Args:
        score: what scores the others.
        barred: whether each expert is barred; not all may be.
    """

    barred_E: Tensor

    def __init__(self, score: nn.Module, barred: Sequence[bool]):
        super().__init__()
        if all(barred):
            raise RosterError("a score that bars every expert leaves nobody to choose")
        self.score = score
        self.register_buffer("barred_E", torch.tensor(barred))

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """Scores [T, E]."""
        scores_TE: Tensor = self.score(x_TD, context).masked_fill(self.barred_E, -torch.inf)
        return scores_TE
