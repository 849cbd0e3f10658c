"""Total: several scores at once, added up.

Shape legend: T tokens, D width, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError


class Total(nn.Module):
    """`scores = sum_i weight_i * part_i(x)`.

    Args:
        parts: scores of the same experts, in the same layout.
        weights: of each part; by default 1.
    """

    def __init__(self, parts: Sequence[nn.Module], weights: Sequence[float] | None = None):
        super().__init__()
        self.weights = [1.0] * len(parts) if weights is None else list(weights)
        if not parts or len(self.weights) != len(parts):
            raise RosterError(f"a total of {len(parts)} scores needs as many weights, not {len(self.weights)}")
        self.parts = nn.ModuleList(parts)

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """Scores [T, E]."""
        first, *rest = (
            _weighed(part(x_TD, context), weight) for part, weight in zip(self.parts, self.weights, strict=True)
        )
        total_TE: Tensor = first
        for each in rest:
            total_TE = total_TE + each
        return total_TE


def _weighed(score_TE: Tensor, weight: float) -> Tensor:
    return score_TE if weight == 1.0 else score_TE * weight
