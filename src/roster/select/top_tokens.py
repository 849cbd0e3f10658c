"""Top tokens: in training a share of every row's tokens is served, at evaluation whoever the router expects to be
(Raposo et al., 2024, Mixture-of-Depths, arXiv:2404.02258).

Shape legend: B batch rows, S tokens per row, T = B * S, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError
from roster.route import Route


class TopTokens(nn.Module):
    """Each expert serves its best `share` of a row's tokens (rounded up), weighted by `sigmoid(score)`.

    Which tokens those are is known only at the end of the row. At evaluation an expert therefore serves the tokens with
    `sigmoid(score) > 0.5`; the balance part `PredictedDuty` teaches the scores to tell.

    Args:
        share: of the tokens, in (0, 1].
    """

    reads_bias = False

    def __init__(self, share: float):
        super().__init__()
        if not 0.0 < share <= 1.0:
            raise RosterError(f"top tokens needs 0 < share <= 1, not {share}")
        self.share = share

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> Route:
        """A route with zero to E experts per token."""
        scores_TE = scores_TE.float()
        chosen_TE = self._best_of_rows(scores_TE, context) if self.training else scores_TE > 0
        return Route.from_gates(scores_TE.sigmoid(), chosen_TE)

    @torch.no_grad()
    def _best_of_rows(self, scores_TE: Tensor, context: Context) -> Tensor:
        B, S = context.batch, context.length
        scores_BSE = scores_TE.view(B, S, -1)
        real_BS = torch.ones(B, S, dtype=torch.bool, device=scores_TE.device)
        if context.mask_BS is not None:
            real_BS = context.mask_BS.to(scores_TE.device)
        order_BSE = scores_BSE.masked_fill(~real_BS[..., None], -torch.inf).argsort(dim=1, descending=True, stable=True)
        rank_BSE = order_BSE.argsort(dim=1)
        count_B = (self.share * real_BS.sum(1).double()).ceil()
        return ((rank_BSE < count_B[:, None, None]) & real_BS[..., None]).view_as(scores_TE)
