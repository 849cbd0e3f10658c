"""Gumbel selection: one expert per row, drawn in training and the best at evaluation, trained straight through
(Jang, Gu and Poole, 2016, "Categorical Reparameterization with Gumbel-Softmax", arXiv:1611.01144).

Shape legend: B batch rows, T tokens, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roster.context import Context
from roster.errors import RosterError
from roster.route import Route
from roster.select.noise import gumbel


class GumbelTop1(nn.Module):
    """The expert with the highest score plus Gumbel noise, with weight one.

    In training every expert computes, those not drawn with weight zero: the straight-through gradient of a weight is
    its expert's output, drawn or not. At evaluation there is no noise and only the chosen expert computes.

    The noise fades as the training goes on (`advance`), so that late in it experts meet only what they will be sent.

    Args:
        temperature: of the softmax whose gradient stands in for the choice's.
    """

    reads_bias = False
    noise: Tensor

    def __init__(self, temperature: float = 1.0):
        super().__init__()
        if not temperature > 0:
            raise RosterError(f"a Gumbel choice needs a temperature above 0, not {temperature}")
        self.temperature = temperature
        self.register_buffer("noise", torch.ones(()))

    def advance(self, progress: float) -> None:
        """Told after every optimiser step how much of the training is done."""
        self.noise.fill_(1 - progress)

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> Route:
        """One expert per token; the tokens of a row share their noise, so that equal scores make one choice."""
        scores_TE = scores_TE.float()
        if not self.training:
            best_T1 = scores_TE.argmax(1, keepdim=True)
            return Route.slots(best_T1, torch.ones_like(best_T1, dtype=scores_TE.dtype), scores_TE.shape[1], full=True)
        noise_BE = gumbel(context.batch, scores_TE.shape[1], device=scores_TE.device)
        soft_TE = ((scores_TE + self.noise * context.per_token(noise_BE)) / self.temperature).softmax(1)
        hard_TE = F.one_hot(soft_TE.argmax(1), soft_TE.shape[1]).to(soft_TE)
        return Route.from_gates(hard_TE + soft_TE - soft_TE.detach(), torch.ones_like(hard_TE, dtype=torch.bool))
