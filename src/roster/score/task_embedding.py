"""Task-embedding score: what is known of a row's task decides, and nothing else. All tokens of a task route alike, so
that a task's experts can be taken out of the mixture (`roster.moe.extract`).

Shape legend: B batch rows, T tokens, E experts, N known tasks, G groups of tasks that share a vector, V width of a
vector, H hidden units.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError


class TaskEmbedding(nn.Module):
    """`scores = W e[task]`, or `W relu(U e[task])` with a hidden layer.

    Args:
        vectors_GV: one vector per group of tasks.
        num_experts: E.
        groups: the group of each task; by default every task is its own.
        hidden: H; 0 for no hidden layer.
        trains: whether the vectors are learned; False keeps them as they are (attributes).
        std: standard deviation of the initial scores of a vector with entries of size one.
    """

    reads_tokens = False
    group_N: Tensor
    vectors_GV: Tensor

    def __init__(
        self,
        vectors_GV: Tensor,
        num_experts: int,
        groups: Sequence[int] | None = None,
        hidden: int = 0,
        trains: bool = True,
        std: float = 1.0,
    ):
        super().__init__()
        width = vectors_GV.shape[1]
        if trains:
            self.vectors_GV = nn.Parameter(vectors_GV.clone())
        else:
            self.register_buffer("vectors_GV", vectors_GV.clone())
        self.register_buffer("group_N", torch.tensor(range(len(vectors_GV)) if groups is None else list(groups)))
        self.hidden_HV = nn.Parameter(torch.randn(hidden, width) * (2 / width) ** 0.5) if hidden else None
        reads = hidden or width
        self.weight_EV = nn.Parameter(torch.randn(num_experts, reads) * std * reads**-0.5)

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """Scores [T, E]."""
        if context.task_ids_B is None:
            raise RosterError("this router needs to know the task of every row: pass task_ids= or tasks=")
        vectors_BV = self.vectors_GV[self.group_N[context.task_ids_B.to(self.group_N.device)]]
        if self.hidden_HV is not None:
            vectors_BV = (vectors_BV @ self.hidden_HV.T).relu()
        return context.per_token(vectors_BV @ self.weight_EV.T)
