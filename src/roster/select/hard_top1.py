"""Hard top-1: one expert per token at full strength, explored at random for the first part of the training.

Shape legend: T tokens, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError
from roster.route import Route


class HardTop1(nn.Module):
    """The best expert with weight one; the router learns from the chosen probability, straight through.

    While less than `explore` of the training is done, every token gets an expert drawn uniformly, so that all experts
    learn to be of use wherever they may be called.

    Args:
        explore: share of the training with random routes, in [0, 1].
    """

    reads_bias = False
    rowwise = True
    progress: Tensor

    def __init__(self, explore: float = 0.0):
        super().__init__()
        if not 0 <= explore <= 1:
            raise RosterError(f"hard top-1: the share of the training that explores must be in 0..1, not {explore}")
        self.explore = explore
        self.register_buffer("progress", torch.zeros(()))

    def advance(self, progress: float) -> None:
        """Told after every optimiser step how much of the training is done."""
        self.progress.fill_(progress)

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> Route:
        """A route with one slot per token."""
        T, E = scores_TE.shape
        expert_T1 = scores_TE.argmax(1, keepdim=True)
        if self.training and self.explore:
            drawn_T1 = torch.randint(0, E, (T, 1), device=scores_TE.device)
            expert_T1 = torch.where(self.progress < self.explore, drawn_T1, expert_T1)
        prob_T1 = scores_TE.float().softmax(1).gather(1, expert_T1)
        return Route.slots(expert_T1, 1 + prob_T1 - prob_T1.detach(), E, full=True)
