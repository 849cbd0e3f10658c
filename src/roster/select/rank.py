"""Rank selection: the expert that comes second, third, ... in a token's order of preference, alone.

Shape legend: T tokens, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError
from roster.route import Route


class Rank(nn.Module):
    """The expert of one rank, with weight one.

    Args:
        rank: 1 is the best; with fewer experts than that, the last.
    """

    reads_bias = True
    rowwise = True

    def __init__(self, rank: int):
        super().__init__()
        if rank < 1:
            raise RosterError(f"ranks of experts begin at 1, not {rank}")
        self.rank = rank

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> Route:
        """A route with one slot per token."""
        E = scores_TE.shape[1]
        ranked_TE = scores_TE if bias_E is None else scores_TE + bias_E
        last_T = ranked_TE.topk(min(self.rank, E), dim=1).indices[:, -1]
        expert_T1 = last_T[:, None]
        return Route.slots(expert_T1, torch.ones_like(expert_T1, dtype=torch.float32), E, full=True)
