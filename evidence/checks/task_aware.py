"""Task-aware gates: unrelated tasks hurt a dense model more than task-gated experts, and a task with little data gains
from a related one.

Toy: tasks are random functions of the same inputs; a code of the task is part of every input, so that a dense model
knows it too. The second task is the first, slightly changed, with 48 examples; four more have nothing to do with them.
A row may use the same number of hidden units in both models. Every training sees the first task equally often.
"""

from __future__ import annotations

import torch

from evidence.checks.blocks import Batch, Net, error, teacher, train

FEATURES, CODE, OUT, HIDDEN, STEPS, FEW = 12, 4, 6, 32, 1200, 48
TASKS = ("first", "related", *(f"unrelated {index}" for index in range(4)))
MODELS = {"dense": ("dense-active", {}), "task-aware": ("task-aware-moe", {})}


class Ground:
    """The tasks of one seed."""

    def __init__(self) -> None:
        first, other = teacher(FEATURES, OUT), teacher(FEATURES, OUT)
        self.functions = [first, lambda x: first(x) + 0.3 * other(x), *(teacher(FEATURES, OUT) for _ in TASKS[2:])]
        self.code_NC = torch.randn(len(TASKS), CODE)
        self.few_XF = torch.randn(FEW, FEATURES)

    def draw(self, task: int, rows: int, few: bool = False) -> Batch:
        """Rows of one task; with `few`, from its fixed examples."""
        x_BF = self.few_XF[torch.randint(0, FEW, (rows,))] if few else torch.randn(rows, FEATURES)
        task_B = torch.full((rows,), task)
        return torch.cat([x_BF, self.code_NC[task_B]], 1), self.functions[task](x_BF), task_B

    def mixed(self, tasks: list[int]) -> Batch:
        """32 rows of each task; those of the related one come from its few examples."""
        parts = [self.draw(task, 32, few=task == 1) for task in tasks]
        return tuple(torch.cat(each) for each in zip(*parts, strict=True))


def check(seed: int) -> dict[str, float]:
    """Relative test errors."""
    torch.manual_seed(seed)
    ground = Ground()
    figures = {}
    for name, (recipe, options) in MODELS.items():
        for label, tasks in (("the first alone", [0]), ("related alone", [1]), ("both", [0, 1]), ("all", [*range(6)])):
            torch.manual_seed(seed + 100)
            net = Net(recipe, options, width=FEATURES + CODE, hidden=HIDDEN, out=OUT, tasks=TASKS)
            train(net, lambda tasks=tasks: ground.mixed(tasks), STEPS)
            for task in (0, 1):
                if task in tasks:
                    figures[f"{name}: {TASKS[task]}, trained on {label}"] = error(net, ground.draw(task, 2000))
        figures[f"{name}: harm of unrelated tasks"] = (
            figures[f"{name}: first, trained on all"] / figures[f"{name}: first, trained on both"]
        )
    return figures


def shown(figures: list[dict[str, float]]) -> bool:
    """At every seed unrelated tasks raise the first task's error by a smaller factor than in the dense model, and the
    related task's error is lower with the first than alone.
    """
    return all(
        each["task-aware: harm of unrelated tasks"] < each["dense: harm of unrelated tasks"]
        and each["task-aware: related, trained on both"] < each["task-aware: related, trained on related alone"]
        for each in figures
    )
