"""Universal: one expert by the scores, and with what weight is left, one that always serves (Gou et al., 2023, MoCLE,
arXiv:2312.12379).

Shape legend: B batch rows, T tokens, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError
from roster.route import Route


class Universal(nn.Module):
    """Weight g, the largest entry of the softmax, for its expert, and 1 - g for the universal one.

    Args:
        index: of the universal expert, which the softmax leaves out; None where the mean of all stands for it.
        temperature: divides the scores.
        noise: standard deviation of what is added to the scores in training, drawn once per batch row.
    """

    reads_bias = False

    def __init__(self, index: int | None = None, temperature: float = 1.0, noise: float = 0.0):
        super().__init__()
        if not temperature > 0:
            raise RosterError(f"a universal expert's weight needs a temperature above 0, not {temperature}")
        self.index, self.temperature, self.noise = index, temperature, noise

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> Route:
        """A route with one chosen expert per token, and the universal one."""
        scores_TE, E = scores_TE.float(), scores_TE.shape[1]
        if self.training and self.noise:
            noise_BE = torch.randn(context.batch, E, device=scores_TE.device) * self.noise
            scores_TE = scores_TE + context.per_token(noise_BE)
        one_E = torch.full((E,), 1 / E, device=scores_TE.device)
        if self.index is not None:
            one_E = (torch.arange(E, device=scores_TE.device) == self.index).to(scores_TE)
            scores_TE = scores_TE.masked_fill(one_E.bool(), -torch.inf)
        best_T1, expert_T1 = (scores_TE / self.temperature).softmax(1).max(1, keepdim=True)
        gate_TE = torch.zeros_like(scores_TE).scatter(1, expert_T1, best_T1)
        return Route.from_gates(gate_TE + (1 - best_T1) * one_E)
