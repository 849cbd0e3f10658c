"""Broadcast: in training, tokens about which the router is unsure go to all experts (Wu et al., 2024, GW-MoE,
arXiv:2406.12375).

Shape legend: T tokens, E experts.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError
from roster.route import Route


class Broadcast(nn.Module):
    """Another selection; in training a token whose `softmax(scores)` is nearly even gets every expert, so weighted.

    Args:
        select: any part that makes a sparse route.
        above: entropy relative to that of an even distribution, in [0, 1], from which a token is broadcast.
        begin: share of the training before it begins; 0 for a model that is fine-tuned.
    """

    on: Tensor

    def __init__(self, select: nn.Module, above: float = 0.9, begin: float = 0.0):
        super().__init__()
        if not (0.0 <= above <= 1.0 and 0.0 <= begin <= 1.0):
            raise RosterError(f"broadcast needs above and begin in 0..1, not {above} and {begin}")
        self.select, self.above, self.begin = select, above, begin
        self.reads_bias = getattr(select, "reads_bias", False)
        self.register_buffer("on", torch.tensor(begin == 0.0))

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> Route:
        """The other selection's route, and in training one with up to E experts per token."""
        route = self.select(scores_TE, context, bias_E)
        if not isinstance(route, Route):
            raise RosterError(f"broadcast: {type(self.select).__name__} makes soft routes, which are broadcast already")
        if not self.training:
            return route
        prob_TE = scores_TE.float().softmax(1)
        unsure_T1 = self.on & (uncertainty(prob_TE) >= self.above)[:, None]
        return Route.from_gates(torch.where(unsure_T1, prob_TE, route.dense().to(prob_TE)), route.chosen() | unsure_T1)

    def advance(self, progress: float) -> None:
        """Begins when it is time."""
        if progress >= self.begin:
            self.on.fill_(True)


def uncertainty(prob_TE: Tensor) -> Tensor:
    """Entropy of each token's distribution relative to the largest possible, [T] in [0, 1]."""
    if prob_TE.shape[1] == 1:
        return torch.zeros_like(prob_TE[:, 0])
    share_T: Tensor = torch.special.entr(prob_TE).sum(1) / math.log(prob_TE.shape[1])
    return share_T
