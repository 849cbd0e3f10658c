"""Relaxed Bernoulli selection: each expert is switched on or off by itself, softly while training (Ponti et al.,
2022, "Combining Modular Skills in Multitask Learning", arXiv:2202.13914).

Shape legend: T tokens, E experts, B batch rows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError
from roster.route import Route


class RelaxedBernoulli(nn.Module):
    """`weights = z / sum(z)` with `z = sigmoid(scores)`; in training z is a Gumbel-sigmoid sample around it.

    One sample is drawn per batch row, from the row's first token: the scores are expected to be a row's, not a token's.

    Args:
        temperature: of the relaxation; lower is closer to on or off.
    """

    reads_bias = False

    def __init__(self, temperature: float = 1.0):
        super().__init__()
        if not temperature > 0:
            raise RosterError(f"relaxed Bernoulli needs a temperature above 0, not {temperature}")
        self.temperature = temperature

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> Route:
        """A route with E experts per token."""
        scores_TE = scores_TE.float()
        if self.training:
            scores_BE = scores_TE.view(context.batch, context.length, -1)[:, 0]
            uniform_BE = torch.rand_like(scores_BE).clamp(1e-6, 1 - 1e-6)
            noise_BE = uniform_BE.log() - torch.log1p(-uniform_BE)
            scores_TE = context.per_token((scores_BE + noise_BE) / self.temperature)
        on_TE = scores_TE.sigmoid()
        return Route.from_gates(on_TE / (on_TE.sum(1, keepdim=True) + 1e-12))
