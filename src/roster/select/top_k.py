"""Top-k selection (Shazeer et al., 2017, arXiv:1701.06538).

Shape legend: T tokens, E experts, K chosen.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError
from roster.route import Route


class TopK(nn.Module):
    """The k best experts of each token, weighted by a softmax.

    Args:
        k: experts per token, at least 1; with fewer experts than k, all serve.
        over: "chosen" takes the softmax over the chosen scores (weights sum to 1), "all" over all scores.
        temperature: divides the scores before the softmax.
    """

    reads_bias = True
    rowwise = True  # each row of scores is decided by itself, whatever token it belongs to

    def __init__(self, k: int, over: Literal["chosen", "all"] = "chosen", temperature: float = 1.0):
        super().__init__()
        if k < 1:
            raise RosterError(f"top-k needs k >= 1, not {k}")
        if over not in ("chosen", "all"):
            raise RosterError(f"top-k: over must be 'chosen' or 'all', not {over!r}")
        if not temperature > 0:
            raise RosterError(f"top-k needs a temperature above 0, not {temperature}")
        self.k, self.over, self.temperature = k, over, temperature

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> Route:
        """A route with k slots per token."""
        E = scores_TE.shape[1]
        ranked_TE = scores_TE if bias_E is None else scores_TE + bias_E
        top_TK, expert_TK = ranked_TE.topk(min(self.k, E), dim=1, sorted=False)
        if bias_E is not None:
            top_TK = scores_TE.gather(1, expert_TK)
        if self.over == "all":
            weight_TK = (scores_TE.float() / self.temperature).softmax(1).gather(1, expert_TK)
        else:
            top_TK = top_TK.float() if self.temperature == 1.0 else top_TK.float() / self.temperature
            weight_TK = torch.softmax(top_TK, dim=1)
        return Route.slots(expert_TK, weight_TK, E, full=True)
