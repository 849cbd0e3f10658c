"""Dense-to-sparse selection: all experts serve at first, one in the end (Nie et al., 2021, EvoMoE, arXiv:2112.14397).

Shape legend: T tokens, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError
from roster.route import Route
from roster.select.noise import gumbel


class DenseToSparse(nn.Module):
    """Experts whose `softmax((scores + noise) / temperature)` reaches a threshold serve, weighted by it.

    The best always serves. As the temperature falls, the softmax sharpens and fewer experts reach the threshold. The
    noise is Gumbel's, and there is none at evaluation.

    Args:
        threshold: in (0, 1); below 1 / E all serve at a high temperature.
        start, end: temperature at the beginning and at the end of the fall, which is linear.
        begin: share of the training before the fall; until then all serve alike, whatever the scores, and the router
            learns nothing (an infinite temperature).
        one_after: at evaluation the best expert alone serves, by the weight it has.
    """

    reads_bias = False
    temperature: Tensor

    def __init__(
        self, threshold: float = 0.2, start: float = 2.0, end: float = 0.3, begin: float = 0.0, one_after: bool = False
    ):
        super().__init__()
        if not 0.0 < threshold < 1.0:
            raise RosterError(f"dense-to-sparse needs 0 < threshold < 1, not {threshold}")
        if not start >= end > 0.0:
            raise RosterError(f"dense-to-sparse needs temperatures start >= end > 0, not {start} and {end}")
        if not 0.0 <= begin < 1.0:
            raise RosterError(f"dense-to-sparse needs 0 <= begin < 1, not {begin}")
        self.threshold, self.start, self.end, self.begin = threshold, start, end, begin
        self.one_after = one_after
        self.register_buffer("temperature", torch.tensor(torch.inf if begin else float(start)))

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> Route:
        """A route with one to E experts per token."""
        scores_TE = scores_TE.float()
        if self.training:
            scores_TE = scores_TE + gumbel(*scores_TE.shape, device=scores_TE.device)
        gate_TE = (scores_TE / self.temperature).softmax(1)
        with torch.no_grad():
            bar_T1 = gate_TE.amax(1, keepdim=True)
            if self.training or not self.one_after:
                bar_T1 = bar_T1.clamp_max(self.threshold)
            chosen_TE = gate_TE >= bar_T1
        return Route.from_gates(gate_TE, chosen_TE)

    def advance(self, progress: float) -> None:
        """Lowers the temperature."""
        done = (progress - self.begin) / (1.0 - self.begin)
        self.temperature.fill_(torch.inf if done < 0 else self.start + (self.end - self.start) * done)
