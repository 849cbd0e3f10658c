"""Task-gate score: one linear gate per task over the same experts; token and task decide together.

Shape legend: B batch rows, S tokens per row, T = B * S, D width, E experts, N known tasks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError


class TaskGate(nn.Module):
    """`scores = x W_task^T`.

    Args:
        num_tasks: N.
        num_experts: E.
        width: D.
        std: standard deviation of the initial weights.
    """

    def __init__(self, num_tasks: int, num_experts: int, width: int, std: float = 0.02):
        super().__init__()
        self.weight_NED = nn.Parameter(torch.randn(num_tasks, num_experts, width) * std)

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """Scores [T, E]."""
        if context.task_ids_B is None:
            raise RosterError("this router needs to know the task of every row: pass task_ids= or tasks=")
        gate_BED = self.weight_NED[context.task_ids_B.to(x_TD.device)].to(x_TD.dtype)
        x_BSD = x_TD.view(context.batch, context.length, -1)
        return (x_BSD @ gate_BED.transpose(1, 2)).reshape(len(x_TD), -1)
