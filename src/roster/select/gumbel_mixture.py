"""Gumbel mixture: weights drawn around learned ones, the same for all tokens of a call, until one expert is left (Li et
al., 2023, arXiv:2310.16240).

Shape legend: T tokens, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError
from roster.route import Route
from roster.select.noise import gumbel


class GumbelMixture(nn.Module):
    """`softmax((scores + Gumbel noise) / temperature)` with one draw per call; at evaluation without noise.

    When `prune_at` of the training is done, the expert with the highest score in the last training call stays, and the
    others are off duty from then on.

    Args:
        num_experts: E.
        temperature: of the softmax.
        prune_at: share of the training after which one expert is left; above 1 it never is.
    """

    reads_bias = False
    alive_E: Tensor
    score_E: Tensor

    def __init__(self, num_experts: int, temperature: float = 1.0, prune_at: float = 0.5):
        super().__init__()
        if not temperature > 0:
            raise RosterError(f"a Gumbel mixture needs a temperature above 0, not {temperature}")
        self.temperature, self.prune_at = temperature, prune_at
        self.register_buffer("alive_E", torch.ones(num_experts, dtype=torch.bool))
        self.register_buffer("score_E", torch.zeros(num_experts), persistent=False)

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> Route:
        """A route with all experts that are left for every token; scores must not depend on the token."""
        scores_TE = scores_TE.float()
        if self.training:
            if len(scores_TE):
                self.score_E.copy_(scores_TE[0].detach())
            scores_TE = scores_TE + gumbel(1, scores_TE.shape[1], device=scores_TE.device)
        gate_TE = (scores_TE / self.temperature).masked_fill(~self.alive_E, -torch.inf).softmax(1)
        return Route.from_gates(gate_TE, self.alive_E.expand_as(gate_TE))

    def advance(self, progress: float) -> None:
        """Told after every optimiser step how much of the training is done."""
        if progress >= self.prune_at:
            self.prune()

    def prune(self) -> None:
        """Leaves the expert with the highest score, of those that are left."""
        best = self.score_E.masked_fill(~self.alive_E, -torch.inf).argmax()
        self.alive_E.copy_(torch.arange(len(self.alive_E), device=self.alive_E.device) == best)
