"""Present: a selection among the experts that exist at this site. Adapters need not all target the same layers.

Shape legend: T tokens, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.route import AnyRoute, Route


class Present(nn.Module):
    """Runs another selection with absent experts scored at minus infinity, and takes them off duty afterwards.

    Args:
        inner: the selection.
        present_E: True for the experts that exist here; at least one.
    """

    def __init__(self, inner: nn.Module, present_E: Tensor):
        super().__init__()
        self.inner = inner
        self.reads_bias = getattr(inner, "reads_bias", False)
        self.register_buffer("present_E", present_E.clone(), persistent=False)

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> AnyRoute:
        """A route that never names an absent expert."""
        route = self.inner(scores_TE.masked_fill(~self.present_E, -torch.inf), context, bias_E)
        chosen_TE = route.chosen() & self.present_E
        return Route.from_gates(route.dense().masked_fill(~self.present_E, 0.0), chosen_TE)
