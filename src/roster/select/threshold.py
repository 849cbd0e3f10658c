"""Threshold selection: every expert serves the tokens whose own gate for it is open.

Shape legend: T tokens, E experts.
"""

from __future__ import annotations

from torch import Tensor, nn

from roster.context import Context
from roster.route import Route


class Threshold(nn.Module):
    """An expert serves a token, with weight one, when `sigmoid(score)` is at least 0.5; trained straight through.

    Experts do not compete: a token may have all of them or nobody. In training a closed gate keeps its expert
    computing with weight zero, because the gradient of the gate is what the expert would have said.
    """

    reads_bias = False

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> Route:
        """A route with up to E experts per token."""
        soft_TE = scores_TE.float().sigmoid()
        open_TE = soft_TE >= 0.5
        if not self.training:
            return Route.from_gates(open_TE.to(soft_TE), open_TE)
        return Route.from_gates(open_TE.to(soft_TE) + soft_TE - soft_TE.detach(), soft_TE > -1)
