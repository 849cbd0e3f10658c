"""Top-k among real and null experts: a null expert costs nothing and adds nothing, so that tokens differ in how many
real ones they visit (Zeng et al., 2024, AdaMoE, arXiv:2406.13233).

Shape legend: T tokens, E experts, null ones included; K chosen.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError
from roster.route import Route


class NullTopK(nn.Module):
    """The k best of all experts; the weights of the real ones among them sum to 1, null ones weigh nothing.

    Null experts are chosen like others and seen by balance losses. A token whose k experts are all null passes through
    the residual.

    Args:
        k: experts per token, null ones included.
        null: how many of the experts, the last ones, are null.
    """

    reads_bias = True

    def __init__(self, k: int, null: int):
        super().__init__()
        if k < 1 or null < 0:
            raise RosterError(f"top-k with null experts needs k >= 1 and null >= 0, not {k} and {null}")
        self.k, self.null = k, null

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> Route:
        """A route with k slots per token."""
        scores_TE = scores_TE.float()
        E = scores_TE.shape[1]
        if self.null >= E:
            raise RosterError(f"of {E} experts {self.null} are null: none is left to work")
        ranked_TE = scores_TE if bias_E is None else scores_TE + bias_E
        expert_TK = ranked_TE.topk(min(self.k, E), dim=1, sorted=False).indices
        null_TK = expert_TK >= E - self.null
        top_TK = scores_TE.gather(1, expert_TK).masked_fill(null_TK, -torch.inf)
        # Nothing but null experts would make a softmax of nothing.
        top_TK = top_TK.masked_fill(null_TK.all(1, keepdim=True), 0.0)
        return Route.slots(expert_TK, top_TK.softmax(1).masked_fill(null_TK, 0.0), E, full=True)
