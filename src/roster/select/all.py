"""All: every expert serves every token.

Shape legend: T tokens, E experts.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError, nearest
from roster.route import Route

_GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda scores_TE: scores_TE.softmax(1),
    "sigmoid": torch.sigmoid,
    "none": lambda scores_TE: scores_TE,
}


class All(nn.Module):
    """A dense mixture.

    Args:
        gate: how scores become weights: "softmax", "sigmoid", or "none" (they are weights already; an expert
            with weight exactly zero is then off duty).
        temperature: divides the scores first.
    """

    reads_bias = False

    def __init__(self, gate: str = "softmax", temperature: float = 1.0):
        super().__init__()
        if gate not in _GATES:
            raise RosterError(f"unknown gate {gate!r}: {nearest(gate, _GATES)}")
        if not temperature > 0:
            raise RosterError(f"a mixture of all needs a temperature above 0, not {temperature}")
        self.gate, self.temperature = gate, temperature

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> Route:
        """A route with E experts per token."""
        return Route.from_gates(_GATES[self.gate](scores_TE.float() / self.temperature))
