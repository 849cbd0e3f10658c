"""Task-aware gates' claims: unrelated tasks hurt a dense model more than task-gated experts, and a task with little
data gains more from a related one.

The second task is the first, slightly changed, with 48 examples; four more have nothing to do with them. Every training
sees the first task equally often.
"""

from __future__ import annotations

from typing import Any

import torch

from evidence.checks.blocks import Batch, Net, teacher
from evidence.grounds.tasks import CODE, FEATURES, OUT, Tasks, fresh, joined, learned, missed, net_for
from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.score import Linear

STEPS, FEW, ALL = 800, 48, 6


class Ground(Tasks):
    """A task, a related one with few examples, and four others."""

    def __init__(self) -> None:
        first, other = teacher(FEATURES, OUT), teacher(FEATURES, OUT)
        others = [teacher(FEATURES, OUT) for _ in range(ALL - 2)]
        super().__init__([first, lambda x: first(x) + 0.3 * other(x), *others])
        self.few_XF = torch.randn(FEW, FEATURES)

    def mixed(self, tasks: list[int]) -> Batch:
        """32 rows of each task; those of the related one come from its few examples."""
        drawn = torch.randn(32, FEATURES)
        few = self.few_XF[torch.randint(0, FEW, (32,))]
        return joined([self.of(task, few if task == 1 else torch.randn_like(drawn)) for task in tasks])


def _one_gate(made: Net) -> None:
    """The same experts behind one gate for all tasks."""
    block: Any = made.blocks[0]
    block.router.score = Linear(FEATURES + CODE, block.experts.num_experts)


def _error(recipe: str, judged: int, tasks: list[int], **more: Any) -> Contender:
    def run(draw: Draw) -> float:
        ground = fresh(draw, Ground)
        made = net_for(ground, recipe, **more)
        learned(draw, made, lambda: ground.mixed(tasks), STEPS)
        return missed(draw, made, ground, [judged])

    return run


def _less(one: Contender, other: Contender) -> Contender:
    return lambda draw: one(draw) - other(draw)


def _harm(recipe: str, **more: Any) -> Contender:
    """Error of the first task beside all others, less that beside the related one."""
    return _less(_error(recipe, 0, [*range(ALL)], **more), _error(recipe, 0, [0, 1], **more))


def _gain(recipe: str, **more: Any) -> Contender:
    """Error of the related task alone, less that beside the first."""
    return _less(_error(recipe, 1, [1], **more), _error(recipe, 1, [0, 1], **more))


COMMON: dict[str, Any] = {
    "slug": "task-aware-moe",
    "version": 1,
    "ground": "six tasks on the same inputs, a code of the task beside the features; the second is the first, slightly "
    "changed, with 48 examples; 800 steps of 32 rows a task",
    "budget": "32 hidden units a row: 2 of 8 experts of 16 units, or one block",
}

CHECKS = (
    make_check(
        part="interference",
        claim="Unrelated tasks hurt task-gated experts less than a dense model.",
        contenders={
            "task gates": ("a gate per task over 8 experts, 2 serve", _harm("task-aware-moe")),
            "dense": ("one block", _harm("dense-active")),
            "one gate": ("one gate for all tasks", _harm("task-aware-moe", change=_one_gate)),
            "wide": ("control: one block of 64 units, which is crowded less", _harm("dense-active", hidden=64)),
        },
        pairs=Pairs("task gates", "dense", "one gate", "wide", "dense"),
        statistic=Statistic("relative error of the first task beside five others, less that beside one", "lower", 0.02),
        **COMMON,
    ),
    make_check(
        part="transfer",
        claim="A task with little data gains more from a related one under task gates than in a dense model.",
        contenders={
            "task gates": ("a gate per task over 8 experts, 2 serve", _gain("task-aware-moe")),
            "dense": ("one block", _gain("dense-active")),
            "one gate": ("one gate for all tasks", _gain("task-aware-moe", change=_one_gate)),
            "half": (
                "control: dense, half of the gain",
                lambda draw: _gain("dense-active")(draw) / 2,
            ),
        },
        pairs=Pairs("task gates", "dense", "one gate", "dense", "half"),
        statistic=Statistic("relative error of the related task alone, less that beside the first", "higher", 0.05),
        **COMMON,
    ),
)
