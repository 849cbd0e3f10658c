"""Evenly: the k best experts of each token, all with the same weight.

Shape legend: T tokens, E experts, K chosen.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError
from roster.route import Route


class Evenly(nn.Module):
    """Weight `1 / k` for each of the k highest scores; how much higher they are says nothing.

    Args:
        k: experts per token, at least 1; with fewer experts than k, all serve.
    """

    reads_bias = True
    rowwise = True

    def __init__(self, k: int):
        super().__init__()
        if k < 1:
            raise RosterError(f"an even choice needs k >= 1, not {k}")
        self.k = k

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> Route:
        """A route with k slots per token."""
        E = scores_TE.shape[1]
        ranked_TE = scores_TE if bias_E is None else scores_TE + bias_E
        expert_TK = ranked_TE.topk(min(self.k, E), dim=1, sorted=False).indices
        weight_TK = torch.full_like(expert_TK, 1 / expert_TK.shape[1], dtype=torch.float32)
        return Route.slots(expert_TK, weight_TK, E, full=True)
