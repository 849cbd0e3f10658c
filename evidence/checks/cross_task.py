"""Task-level mixture for cross-task skills: with learned routes a new task is learned from few examples better than
by a dense model.

12 tasks of 3 skills (random functions); a task is its skill plus a slight change of its own. One block, 3 experts. A
thirteenth task of one of the skills comes with 8 examples: the mixture learns its vector only; the dense model, which
reads a learned vector per task beside the input, learns the vector, or everything, whichever is better on the test. The
mixture reads as many ones there, so that both blocks are equally wide and a row costs the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from evidence.checks.blocks import Batch, Net, error, teacher, train
from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.context import Context

FEATURES, OUT, SKILLS, KNOWN, HIDDEN, FEW, VECTOR = 12, 6, 3, 12, 24, 8, 8
STEPS, NEW_STEPS = 1200, 200
TASKS = tuple(f"task {index}" for index in range(KNOWN + 1))


class Reader(nn.Module):
    """A net that reads some numbers of the task beside the input.

    Args:
        vector_NV: what it reads of each task; a parameter is learned.
        recipe, options: of its block.
    """

    def __init__(self, vector_NV: Tensor, recipe: str, options: Mapping[str, Any] | None = None):
        super().__init__()
        self.vector_NV = vector_NV
        self.net = Net(recipe, options, width=FEATURES + VECTOR, hidden=HIDDEN, out=OUT, tasks=TASKS)

    def forward(self, x_BD: Tensor, task_B: Tensor, context: Context | None = None) -> Tensor:
        """Outputs [B, O]."""
        answers: Tensor = self.net(torch.cat([x_BD, self.vector_NV[task_B]], 1), task_B, context)
        return answers


class Ground:
    """Skills, and what each task adds of its own."""

    def __init__(self) -> None:
        self.skills = [teacher(FEATURES, OUT) for _ in range(SKILLS)]
        self.own = [teacher(FEATURES, OUT) for _ in TASKS]

    def rows(self, task: int, count: int) -> Batch:
        """Of one task."""
        x_BF = torch.randn(count, FEATURES)
        y_BO = self.skills[task % SKILLS](x_BF) + 0.15 * self.own[task](x_BF)
        return x_BF, y_BO, torch.full((count,), task)

    def mixed(self) -> Batch:
        """Eight rows of each known task."""
        parts = [self.rows(task, 8) for task in range(KNOWN)]
        x_BF, y_BO, task_B = (torch.cat(each) for each in zip(*parts, strict=True))
        return x_BF, y_BO, task_B


def _new_task(learn: Callable[[Draw, Ground, Batch, Callable[[nn.Module], float]], float], few: int = FEW) -> Contender:
    """Relative error on the new task."""

    def run(draw: Draw) -> float:
        torch.manual_seed(draw.ground)
        ground = Ground()
        test = ground.rows(KNOWN, 2000)
        torch.manual_seed(draw.luck + 1_000)
        return learn(draw, ground, ground.rows(KNOWN, few), lambda made: error(made, test))

    return run


def _mixture(routes: bool) -> Contender:
    def learn(draw: Draw, ground: Ground, few: Batch, missed: Callable[[nn.Module], float]) -> float:
        made = Reader(torch.ones(len(TASKS), VECTOR), "cross-task-moe", {"num_experts": SKILLS})
        router: Any = made.net.blocks[0].router
        if not routes:  # every known task by an expert of its own lot
            router.score.requires_grad_(False)
            with torch.no_grad():
                router.score.vectors_GV.mul_(8)
        train(made, ground.mixed, draw.steps(STEPS))
        router.score.requires_grad_(True)
        train(made, lambda: few, draw.steps(NEW_STEPS), rate=5e-2, parameters=[router.score.vectors_GV])
        return missed(made)

    return _new_task(learn)


def _dense(few: int = FEW) -> Contender:
    def learn(draw: Draw, ground: Ground, few: Batch, missed: Callable[[nn.Module], float]) -> float:
        made = Reader(nn.Parameter(torch.randn(len(TASKS), VECTOR)), "dense-active")
        train(made, ground.mixed, draw.steps(STEPS))
        start = {name: tensor.clone() for name, tensor in made.state_dict().items()}
        tuned = []
        for parameters, rate in (([made.vector_NV], 5e-2), (list(made.parameters()), 3e-3)):
            made.load_state_dict(start)
            tuned.append(missed(train(made, lambda: few, draw.steps(NEW_STEPS), rate, parameters)))
        return min(tuned)

    return _new_task(learn, few)


CHECKS = (
    make_check(
        slug="cross-task-moe",
        version=1,
        claim="With routes of tasks to experts learned, a new task is learned from few examples better than densely.",
        ground="12 tasks of 3 skills, each with a slight change of its own; a new task of one skill with 8 examples",
        budget="24 hidden units a row; a mixture of 3 such blocks, and one block that reads 8 numbers of the task",
        contenders={
            "mixture": ("learned routes; of the new task its vector is learned", _mixture(routes=True)),
            "dense": ("one block; the new task's vector is learned or everything, the better of the two", _dense()),
            "by lot": ("routes of the known tasks by lot: not learned", _mixture(routes=False)),
            "more": ("control: dense, from 12 examples", _dense(few=12)),
        },
        pairs=Pairs("mixture", "dense", "by lot", "more", "dense"),
        statistic=Statistic("relative squared error on the new task", "lower", 0.02),
    ),
)
