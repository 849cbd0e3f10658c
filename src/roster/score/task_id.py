"""Task-id score: a table with one row per known task, read by the task id that comes with each batch row.

Shape legend: B batch rows, T tokens, E experts, N known tasks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError


class TaskTable(nn.Module):
    """`scores = table[task]`; a row of the batch with task id -1 reads `unknown_E`.

    Args:
        table_NE: scores of each expert per known task; a parameter when `trains`, else a buffer.
        unknown_E: scores for a task that is not in the table; None makes that an error.
        needed_by: who to name in the error when ids are missing.
    """

    reads_tokens = False
    unknown_E: Tensor | None
    table_NE: Tensor

    def __init__(
        self,
        table_NE: Tensor,
        unknown_E: Tensor | None = None,
        trains: bool = False,
        needed_by: str = "this router",
    ):
        super().__init__()
        self.needed_by = needed_by
        if trains:
            self.table_NE = nn.Parameter(table_NE.clone())
        else:
            self.register_buffer("table_NE", table_NE.clone())
        self.register_buffer("unknown_E", None if unknown_E is None else unknown_E.clone())

    def check(self, task_ids_B: Tensor | None) -> None:
        """Raises RosterError when ids are missing or out of range; called once per batch, before any layer."""
        if task_ids_B is None:
            raise self._no_tasks()
        lowest = 0 if self.unknown_E is None else -1
        outside = (task_ids_B < lowest) | (task_ids_B >= len(self.table_NE))
        if bool(outside.any()):
            bad = int(task_ids_B[outside][0])
            raise RosterError(f"{self.needed_by}: task id {bad} is outside {lowest}..{len(self.table_NE) - 1}")

    def _no_tasks(self) -> RosterError:
        return RosterError(f"{self.needed_by} needs to know the task of every row: pass task_ids= or tasks=")

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """Scores [T, E]."""
        task_ids_B = context.task_ids_B
        if task_ids_B is None:
            raise self._no_tasks()
        table_NE = self.table_NE
        if self.unknown_E is not None:
            # The unknown row stands last, where index -1 finds it.
            table_NE = torch.cat([table_NE, self.unknown_E[None]])
        row_B = task_ids_B.to(table_NE.device) % len(table_NE)
        return context.per_token(table_NE[row_B])
