"""Given: scores are weights already; the k largest serve, and a weight of zero is nobody.

Who is on duty at all is found out where that costs no wait for a device: the experts then take no more than theirs.

Shape legend: T tokens, E experts, K chosen.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.context import DUTY, KEPT, Context
from roster.route import Route


class Given(nn.Module):
    """Takes weights as they are. Who is on duty at all goes along with the route, and into the context's memory.

    Args:
        k: at most so many experts per token.
    """

    reads_bias = False

    def __init__(self, k: int):
        super().__init__()
        self.k = k

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> Route:
        """A route with k slots per token."""
        E = scores_TE.shape[1]
        weight_TK, expert_TK = scores_TE.topk(min(self.k, E), dim=1)
        route = Route.slots(expert_TK.masked_fill(weight_TK == 0, E), weight_TK, E)
        route.duty = context.memory.get(DUTY)
        if weight_TK.device.type == "cpu" and not torch.compiler.is_compiling():
            if route.duty is None:
                route.duty = tuple(expert_TK[weight_TK != 0].unique().tolist())
            route.sole = len(route.duty) == 1 and bool((weight_TK[:, 0] == 1).all())
        context.memory[DUTY], route.kept = route.duty, context.memory.get(KEPT)
        route.steady = route.kept is not None and context.length == 1 and context.mask_BS is None
        return route
