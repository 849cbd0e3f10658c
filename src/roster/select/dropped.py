"""Dropped: another selection, some of whose scores a training call does without.

Shape legend: T tokens, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roster.context import Context
from roster.errors import RosterError
from roster.route import AnyRoute


class Dropped(nn.Module):
    """`inner` on scores of which a share is zero and the others as much larger; one draw for all tokens of a call.

    For scores that are weights already: a score of zero then is nobody.

    Args:
        select: reads the scores.
        share: that is dropped while training, in [0, 1).
    """

    def __init__(self, select: nn.Module, share: float):
        super().__init__()
        if not 0.0 <= share < 1.0:
            raise RosterError(f"dropped scores: the share must be at least 0 and below 1, not {share}")
        self.select, self.share = select, share
        self.reads_bias = getattr(select, "reads_bias", False)

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> AnyRoute:
        """The other selection's route."""
        if self.training and self.share:
            kept_E = F.dropout(torch.ones_like(scores_TE[0]), self.share)
            scores_TE = scores_TE * kept_E
        route: AnyRoute = self.select(scores_TE, context, bias_E)
        return route
