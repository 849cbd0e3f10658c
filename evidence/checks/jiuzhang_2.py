"""JiuZhang 2.0's claim, for its layer: one mixture for related tasks, told the task at its router, beats one dense
model of equal cost.

8 tasks in two families; what is wanted of a task is a function of the family plus half of one of its own. All
contenders get the task's prompt, added to their input, so that the dense one can tell tasks apart too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from evidence.checks.blocks import Batch, Net, error, teacher, train
from evidence.checks.clusters import OUT, WIDTH
from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.context import Context

TASKS, STEPS = 8, 1200


class Told(Net):
    """A net that is told the task at its input."""

    def __init__(self, recipe: str, hidden: int, told_router: bool):
        names = [f"task {task}" for task in range(TASKS)]
        super().__init__(recipe, None, width=WIDTH, hidden=hidden, out=OUT, tasks=names)
        self.prompt = nn.Embedding(TASKS, WIDTH)
        if not told_router:
            block: Any = self.blocks[0]
            block.blocks[1].router.score = block.blocks[1].router.score.score

    def forward(self, x_BD: Tensor, task_B: Tensor | None = None, context: Context | None = None) -> Tensor:
        """Outputs [B, O]."""
        return super().forward(x_BD + self.prompt(task_B), task_B, context)


class Ground:
    """Two families, and what each task adds of its own."""

    def __init__(self) -> None:
        self.family = [teacher(WIDTH, OUT) for _ in range(2)]
        self.own = [teacher(WIDTH, OUT) for _ in range(TASKS)]

    def draw(self, rows: int = 256) -> Batch:
        """Rows of random tasks."""
        task_B = torch.randint(0, TASKS, (rows,))
        x_BD, y_BO = torch.randn(rows, WIDTH), torch.zeros(rows, OUT)
        for task in range(TASKS):
            y_BO = y_BO + (task_B == task)[:, None] * (self.family[task % 2](x_BD) + 0.5 * self.own[task](x_BD))
        return x_BD, y_BO, task_B


def _error(recipe: str, hidden: int = 16, told_router: bool = True) -> Contender:
    def run(draw: Draw) -> float:
        torch.manual_seed(draw.ground)
        ground = Ground()
        torch.manual_seed(draw.luck + 1_000)
        made = train(Told(recipe, hidden, told_router), ground.draw, draw.steps(STEPS))
        torch.manual_seed(draw.ground + 500_000)
        return sum(error(made, ground.draw()) for _ in range(16)) / 16

    return run


CHECKS = (
    make_check(
        slug="jiuzhang-2",
        version=1,
        claim="One mixture for related tasks, whose router is told the task, beats a dense model of equal cost.",
        ground="8 tasks in two families on the same inputs; a learned vector of the task is added to the input; 1,200 "
        "steps of 256",
        budget="16 hidden units a row: a shared expert of 8 and one of 7 routed ones, or one block",
        contenders={
            "mixture": ("a shared expert and routed ones, the router is told the task", _error("jiuzhang-2")),
            "dense": ("one block", _error("dense-active")),
            "untold": ("the mixture, whose router reads the token alone", _error("jiuzhang-2", told_router=False)),
            "wider": ("control: one block of 20 units", _error("dense-active", hidden=20)),
        },
        pairs=Pairs("mixture", "dense", "untold", "wider", "dense"),
        statistic=Statistic("relative squared error on fresh rows", "lower", 0.01),
    ),
)
