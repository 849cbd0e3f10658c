"""AdaTT's claims: it beats a shared bottom and MMoE, thanks to the native experts, and fuses related tasks more.

Four tasks on the same inputs, in two pairs; what is wanted of a task is 0.8 of its pair's random function and 0.6 of
its own. Four of the sixteen inputs are ones, so that a linear gate can prefer an expert as such.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from evidence.checks.blocks import Batch, Net, teacher, train
from evidence.checks.clusters import OUT, WIDTH, mean_error, net, routes
from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.context import Context
from roster.select import All

TASKS, STEPS, HIDDEN, ONES = 4, 1000, 60, 4


class PerTask(Net):
    """A net that reads out each row for its own task."""

    def forward(self, x_BD: Tensor, task_B: Tensor | None = None, context: Context | None = None) -> Tensor:
        """Outputs [B, O]."""
        y_BNO = super().forward(x_BD, task_B, context).unflatten(1, (TASKS, OUT))
        return y_BNO[torch.arange(len(x_BD)), task_B]


def _ground(draw: Draw) -> Callable[..., Batch]:
    torch.manual_seed(draw.ground)
    pair, own = [teacher(WIDTH, OUT) for _ in range(2)], [teacher(WIDTH, OUT) for _ in range(TASKS)]

    def batch(rows: int = 256) -> Batch:
        x_BD, task_B = torch.randn(rows, WIDTH), torch.randint(0, TASKS, (rows,))
        x_BD[:, -ONES:] = 1.0
        y_BO = torch.zeros(rows, OUT)
        for task in range(TASKS):
            y_BO = y_BO + (task_B == task)[:, None] * (0.8 * pair[task // 2](x_BD) + 0.6 * own[task](x_BD))
        return x_BD, y_BO, task_B

    torch.manual_seed(draw.luck + 1_000)
    return batch


def _learned(draw: Draw, recipe: str, native: bool, hidden: int) -> tuple[Net, Callable[..., Batch]]:
    batch = _ground(draw)
    made = net(recipe, hidden=hidden, tasks=[f"task {task}" for task in range(TASKS)])
    made.__class__, made.out = PerTask, torch.nn.Linear(WIDTH, TASKS * OUT)
    if recipe == "adatt" and not native:
        made.blocks[0].router.select = All()  # nobody owns an expert: what is left is MMoE
    train(made, batch, draw.steps(STEPS))
    torch.manual_seed(draw.ground + 500_000)
    return made, batch


def _error(recipe: str, native: bool = True, hidden: int = HIDDEN) -> Contender:
    return lambda draw: mean_error(*_learned(draw, recipe, native, hidden))


def _related(draw: Draw, shuffled: bool = False) -> float:
    """Mean gate on the expert of the related task, less that on those of unrelated ones."""
    made, batch = _learned(draw, "adatt", True, HIDDEN)
    drawn = batch(2048)
    gate_TE = routes(made, drawn)[0].dense()[:, :TASKS]
    gate_NE = torch.stack([gate_TE[drawn[2] == task].mean(0) for task in range(TASKS)])
    partner = [2, 3, 0, 1] if shuffled else [1, 0, 3, 2]
    related = torch.eye(TASKS)[partner].bool()
    return float(gate_NE[related].mean() - gate_NE[~related & ~torch.eye(TASKS).bool()].mean())


COMMON: dict[str, Any] = {
    "slug": "adatt",
    "version": 1,
    "ground": "4 tasks in two pairs on the same inputs (0.8 of the pair's function, 0.6 of its own); 1,000 steps",
    "budget": "60 units in all for each; a gate per task on top in MMoE and AdaTT",
}

CHECKS = (
    make_check(
        part="loss",
        claim="Its loss is below those of MMoE and of a shared bottom.",
        contenders={
            "AdaTT": ("an expert per task and a shared one, gates and the native part", _error("adatt")),
            "MMoE": ("gates over the same experts, without the native part", _error("adatt", native=False)),
            "shared bottom": ("one dense block, a read-out per task", _error("dense-active")),
            "double": ("control: MMoE with twice the units", _error("adatt", native=False, hidden=2 * HIDDEN)),
        },
        pairs=Pairs("AdaTT", "MMoE", "MMoE", "double", "MMoE"),
        statistic=Statistic("relative squared error on fresh rows", "lower", 0.005),
        **COMMON,
    ),
    make_check(
        part="fusion",
        claim="It fuses related tasks more than unrelated ones.",
        contenders={
            "AdaTT": ("gates by the true pairs", _related),
            "other pairs": ("gates by pairs that are none", lambda draw: _related(draw, shuffled=True)),
            "told": ("control: gates of 0.3 and 0.2", lambda draw: 0.1 + 0.001 * (draw.luck % 7)),
        },
        pairs=Pairs("AdaTT", "other pairs", "other pairs", "told", "other pairs"),
        statistic=Statistic("mean gate on the related task's expert, less that on unrelated ones", "higher", 0.01),
        **COMMON,
    ),
)
