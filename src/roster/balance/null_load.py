"""Load balancing with null experts: they share the load that all of them have, whichever is chosen (Zeng et al., 2024,
AdaMoE, arXiv:2406.13233).

Shape legend: T tokens, E experts with the null ones at the end, C their kinds.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.balance.mean import over_tokens
from roster.context import Context
from roster.errors import RosterError
from roster.route import AnyRoute, scores_of


class NullLoadBalancing(nn.Module):
    """`coefficient * E * sum_e f_e P_e` in which every null expert has the mean f of all null experts.

    There is no reason to prefer one null expert to another, and this loss has none. It is least when real experts are
    equally busy and null ones together have their even share, which leaves `k * real / E` real experts per token.

    Args:
        null: how many of the experts, the last ones, are null.
        coefficient: weight of the loss.
    """

    def __init__(self, null: int, coefficient: float = 0.01):
        super().__init__()
        if null < 0:
            raise RosterError(f"load balancing: there cannot be {null} null experts")
        self.null, self.coefficient = null, coefficient

    def forward(self, route: AnyRoute, context: Context) -> Tensor:
        """A scalar."""
        prob_E = over_tokens(scores_of(route).float().softmax(1), context)
        served_E = over_tokens(route.chosen().to(prob_E), context)
        real = len(served_E) - self.null
        if self.null:
            served_E = torch.cat([served_E[:real], served_E[real:].mean().expand(self.null)])
        return self.coefficient * len(prob_E) * (served_E * prob_E).sum()
