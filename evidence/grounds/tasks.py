"""Tasks on the same inputs: random functions, of which some may be kin; a code of the task is part of every input.

Shape legend: B rows, F features, C numbers of the code, N tasks, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from evidence.checks.blocks import Batch, Net, error, teacher, train
from evidence.protocol.check import Draw

FEATURES, CODE, OUT, HIDDEN = 12, 4, 6, 32
Function = Callable[[Tensor], Tensor]


class Tasks:
    """The tasks of a ground.

    Args:
        functions: what each wants of its inputs.
        coded: whether the inputs say which task it is.
    """

    def __init__(self, functions: Sequence[Function], coded: bool = True):
        self.functions = functions
        self.code_NC = torch.randn(len(functions), CODE) * coded

    @property
    def names(self) -> tuple[str, ...]:
        """Of the tasks."""
        return tuple(f"task {index}" for index in range(len(self.functions)))

    def of(self, task: int, x_BF: Tensor) -> Batch:
        """These inputs of one task."""
        task_B = torch.full((len(x_BF),), task)
        return torch.cat([x_BF, self.code_NC[task_B]], 1), self.functions[task](x_BF), task_B

    def draw(self, tasks: Sequence[int], rows: int) -> Batch:
        """So many rows of each of these tasks."""
        return joined([self.of(task, torch.randn(rows, FEATURES)) for task in tasks])


def joined(parts: Sequence[Batch]) -> Batch:
    """Batches one behind the other."""
    x_BD, y_BO, task_B = (torch.cat(each) for each in zip(*parts, strict=True))
    return x_BD, y_BO, task_B


def fresh(draw: Draw, make: Callable[[], Tasks]) -> Tasks:
    """The tasks of a ground; what is drawn afterwards is luck."""
    torch.manual_seed(draw.ground)
    made = make()
    torch.manual_seed(draw.luck + 1_000)
    return made


def unrelated(count: int, coded: bool = True) -> Callable[[], Tasks]:
    """Tasks that have nothing in common."""
    return lambda: Tasks([teacher(FEATURES, OUT) for _ in range(count)], coded)


def net_for(
    tasks: Tasks,
    recipe: str,
    options: Mapping[str, Any] | None = None,
    change: Callable[[Net], None] | None = None,
    hidden: int = HIDDEN,
) -> Net:
    """One block of a recipe, and a read-out."""
    made = Net(recipe, options, width=FEATURES + CODE, hidden=hidden, out=OUT, tasks=tasks.names)
    if change is not None:
        change(made)
    return made


def learned(draw: Draw, made: Net, batches: Callable[[], Batch], steps: int) -> Net:
    """Trained by luck's batches."""
    train(made, batches, draw.steps(steps))
    return made


def missed(draw: Draw, made: Net, tasks: Tasks, which: Sequence[int], rows: int = 500) -> float:
    """Relative error on fresh rows, the same for all contenders of a ground."""
    torch.manual_seed(draw.ground + 500_000)
    return error(made, tasks.draw(which, rows))
