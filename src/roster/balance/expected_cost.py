"""Expected cost: makes a router prefer cheap experts where they do as well.

Shape legend: T tokens, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from roster.balance.mean import over_tokens
from roster.context import Context
from roster.errors import RosterError
from roster.route import AnyRoute, scores_of


class ExpectedCost(nn.Module):
    """`coefficient * mean over tokens of sum_e softmax(scores)_e cost_e`; padding is left out.

    Args:
        costs: of each expert, in any unit, none below zero.
        coefficient: nats of loss that one unit of cost must save.
    """

    cost_E: Tensor

    def __init__(self, costs: Sequence[float], coefficient: float):
        super().__init__()
        if min(costs) < 0:
            raise RosterError(f"expected cost: no cost may be below zero, not {min(costs)}")
        self.register_buffer("cost_E", torch.tensor(list(costs), dtype=torch.float32))
        self.coefficient = coefficient

    def forward(self, route: AnyRoute, context: Context) -> Tensor:
        """A scalar."""
        cost_T = scores_of(route).float().softmax(1) @ self.cost_E
        return self.coefficient * over_tokens(cost_T, context)
