"""Present: a selection among all experts where some have nothing to add. Adapters need not all target the same layers.

Shape legend: T tokens, E experts.
"""

from __future__ import annotations

from torch import Tensor, nn

from roster.context import Context
from roster.route import AnyRoute, Route
from roster.select.parts import PartRoute


class Present(nn.Module):
    """Runs another selection over all experts, then takes those off duty that have no update here.

    Their weight goes to nobody: an adapter with more targets than the others must not answer with their weight wherever
    it stands alone. Scores that are read off an expert's update are zero where it has none.

    Args:
        inner: the selection.
        present_E: True for the experts that exist here; at least one.
    """

    present_E: Tensor

    def __init__(self, inner: nn.Module, present_E: Tensor):
        super().__init__()
        self.inner = inner
        self.reads_bias = getattr(inner, "reads_bias", False)
        self.register_buffer("present_E", present_E.clone(), persistent=False)

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> AnyRoute:
        """A route that never names an absent expert."""
        route = self.inner(scores_TE, context, bias_E)
        if isinstance(route, PartRoute):
            return route.only(self.present_E)
        return Route.from_gates(route.dense().masked_fill(~self.present_E, 0.0), route.chosen() & self.present_E)
