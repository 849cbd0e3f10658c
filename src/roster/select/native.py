"""Native: a task's own experts count beside whatever is selected (Li et al., 2023, AdaTT, arXiv:2304.04959).

Shape legend: T tokens, E experts, N tasks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError
from roster.route import Route


class Native(nn.Module):
    """`gate + v[task]`, where v holds one learned weight per task and own expert, whatever the token.

    Args:
        select: what fuses the experts of all tasks.
        owners: the task that owns each expert, numbered from 0; -1 for a shared one. Every task owns as many.
        num_tasks: N.
    """

    reads_bias = False
    own_NE: Tensor

    def __init__(self, select: nn.Module, owners: Sequence[int], num_tasks: int):
        super().__init__()
        self.select = select
        own_NE = torch.stack([torch.tensor([owner == task for owner in owners]) for task in range(num_tasks)])
        if not own_NE.any(1).all():
            raise RosterError(f"native experts: every one of {num_tasks} tasks needs an expert of its own")
        self.register_buffer("own_NE", own_NE)
        self.weight_NE = nn.Parameter(own_NE / own_NE.sum(1, keepdim=True))

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> Route:
        """The other selection's experts and the task's own."""
        if context.task_ids_B is None:
            raise RosterError("native experts need the task of every row: pass task_ids= or tasks=")
        task_B = context.task_ids_B.to(scores_TE.device)
        own_TE = context.per_token(self.own_NE[task_B])
        native_TE = context.per_token((self.weight_NE * self.own_NE)[task_B])
        route = self.select(scores_TE, context, bias_E)
        return Route.from_gates(route.dense() + native_TE.to(scores_TE.dtype), route.chosen() | own_TE)
