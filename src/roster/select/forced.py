"""Forced selection: one expert for every token, set from outside. For enumerating what a router could have done.

Shape legend: T tokens, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.route import Route


class Forced(nn.Module):
    """The expert `self.expert` with weight one, whatever the scores.

    Args:
        expert: who serves all tokens; may be changed between calls.
    """

    reads_bias = True
    rowwise = True

    def __init__(self, expert: int = 0):
        super().__init__()
        self.expert = expert

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> Route:
        """A route with one slot per token."""
        T, E = scores_TE.shape
        expert_T1 = torch.full((T, 1), self.expert, device=scores_TE.device)
        return Route.slots(expert_T1, torch.ones(T, 1, device=scores_TE.device), E, full=True)
