"""Task-id score: a table with one row per known task, read by the task id that comes with each batch row.

Shape legend: B batch rows, T tokens, E experts, N known tasks, P parts of an expert.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError

OUT_OF_REACH = -1e9
"""A score that no other comes near, and of which a sigmoid is zero; files hold it, where they hold no infinity."""


class TaskTable(nn.Module):
    """`scores = table[task]`; a row of the batch with task id -1 reads `unknown_E`.

    Args:
        table_NE: scores of each expert per known task, or [N, E, P] of each of its parts (see `select.Parts`), which is
            then called `table_NEP`; a parameter when `trains`, else a buffer.
        unknown_E: scores for a task that is not in the table, in the shape of its rows; None makes that an error.
        needed_by: who to name in the error when ids are missing.
        closed_NE: where True, an entry is out of reach, whatever the table says; of the table's shape.
    """

    reads_tokens = False
    unknown_E: Tensor | None

    def __init__(
        self,
        table_NE: Tensor,
        unknown_E: Tensor | None = None,
        trains: bool = False,
        needed_by: str = "this router",
        closed_NE: Tensor | None = None,
    ):
        super().__init__()
        self.needed_by = needed_by
        self.name = "table_NE" if table_NE.dim() == 2 else "table_NEP"
        if trains:
            self.register_parameter(self.name, nn.Parameter(table_NE.clone()))
        else:
            self.register_buffer(self.name, table_NE.clone())
        self.register_buffer(self.name.replace("table", "closed"), closed_NE)
        self.register_buffer("unknown_E", None if unknown_E is None else unknown_E.clone())

    @property
    def table(self) -> Tensor:
        """[N, E] or [N, E, P]."""
        found: Tensor = getattr(self, self.name)
        closed: Tensor | None = getattr(self, self.name.replace("table", "closed"))
        return found if closed is None else found.masked_fill(closed, OUT_OF_REACH)

    def check(self, task_ids_B: Tensor | None) -> None:
        """Raises RosterError when ids are missing or out of range; called once per batch, before any layer."""
        if task_ids_B is None:
            raise self._no_tasks()
        lowest = 0 if self.unknown_E is None else -1
        outside = (task_ids_B < lowest) | (task_ids_B >= len(self.table))
        if bool(outside.any()):
            bad = int(task_ids_B[outside][0])
            raise RosterError(f"{self.needed_by}: task id {bad} is outside {lowest}..{len(self.table) - 1}")

    def _no_tasks(self) -> RosterError:
        return RosterError(f"{self.needed_by} needs to know the task of every row: pass task_ids= or tasks=")

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """Scores [T, E], or [T, E * P] grouped by expert."""
        task_ids_B = context.task_ids_B
        if task_ids_B is None:
            raise self._no_tasks()
        table_NX = self.table.flatten(1)
        if self.unknown_E is not None:
            # The unknown row stands last, where index -1 finds it.
            table_NX = torch.cat([table_NX, self.unknown_E.reshape(1, -1)])
        row_B = task_ids_B.to(table_NX.device) % len(table_NX)
        return context.per_token(table_NX[row_B])
