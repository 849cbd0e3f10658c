"""JiuZhang 2.0's own claim, for its layer: one mixture for related tasks beats one dense model of equal cost, comes
near models of the single tasks, and unrelated tasks use different experts.

Toy: 8 tasks in two families; what is wanted of a task is a function of the family plus half of one of its own. "dense"
gets the task's prompt too, added to its input, so that it can tell tasks apart. A single-task model is a dense block
of the same cost, trained for an eighth of the steps on its own task, which is as much of that task as the others see.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from evidence.checks.blocks import Batch, Net, teacher, train
from evidence.checks.clusters import OUT, WIDTH, mean_error, net, routes
from roster.context import Context

TASKS, STEPS = 8, 1200


class Told(Net):
    """A net that is told the task at its input."""

    def forward(self, x_BD: Tensor, task_B: Tensor | None = None, context: Context | None = None) -> Tensor:
        """Outputs [B, O]."""
        return super().forward(x_BD + self.prompt(task_B), task_B, context)


def check(seed: int) -> dict[str, float]:
    """Relative errors, and how much of their load two tasks share, within and between families."""
    torch.manual_seed(seed)
    family, own = [teacher(WIDTH, OUT) for _ in range(2)], [teacher(WIDTH, OUT) for _ in range(TASKS)]

    def draw_of(task_B: Tensor) -> Batch:
        x_BD, y_BO = torch.randn(len(task_B), WIDTH), torch.zeros(len(task_B), OUT)
        for task in range(TASKS):
            y_BO = y_BO + (task_B == task)[:, None] * (family[task % 2](x_BD) + 0.5 * own[task](x_BD))
        return x_BD, y_BO, task_B

    def draw(rows: int = 256) -> Batch:
        return draw_of(torch.randint(0, TASKS, (rows,)))

    figures = {}
    for name, recipe in (("dense", "dense-active"), ("mixture", "jiuzhang-2")):
        torch.manual_seed(seed + 100)
        made = net(recipe, tasks=[f"task {task}" for task in range(TASKS)])
        made.__class__, made.prompt = Told, nn.Embedding(TASKS, WIDTH)
        figures[name] = mean_error(train(made, draw, STEPS), draw)
    singles = []
    for task in range(TASKS):
        torch.manual_seed(seed + 100)
        single = net("dense-active")

        def only(task=task) -> Batch:
            return draw_of(torch.full((256,), task))

        singles.append(mean_error(train(single, only, STEPS // TASKS), only))
    figures["single-task models"] = float(np.mean(singles))
    x_BD, _, task_B = draw(4096)
    load_TE = routes(made, (x_BD, x_BD, task_B))[0].chosen().float()
    load_NE = torch.stack([load_TE[task_B == task].mean(0) for task in range(TASKS)])
    shared_NN = torch.minimum(load_NE[:, None], load_NE[None]).sum(2)
    task_N = torch.arange(TASKS)
    same_NN = (task_N[:, None] - task_N) % 2 == 0
    figures["load shared within a family"] = float(shared_NN[same_NN & ~torch.eye(TASKS).bool()].mean())
    figures["load shared between families"] = float(shared_NN[~same_NN].mean())
    return figures


def shown(figures: list[dict[str, float]]) -> bool:
    """At every seed the mixture's error is below the dense model's; on average it is at most 1.1 times that of the
    single-task models, and tasks share less of their load between families than within.
    """
    means = {name: np.mean([each[name] for each in figures]) for name in figures[0]}
    beats = all(each["mixture"] < each["dense"] for each in figures)
    near = means["mixture"] <= 1.1 * means["single-task models"]
    return bool(beats and near and means["load shared between families"] < means["load shared within a family"])
