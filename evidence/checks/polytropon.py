"""Polytropon's claim: a table of tasks and skills lets a new task be learned from few examples, better than by a shared
adapter.

Five skills of rank 2; nine tasks of two skills each. A tenth pair, never seen, is then learned from 8 tokens: by its
row of the table alone, and by a shared adapter (one LoRA of the same total rank, trained on all tasks) that is tuned
whole. Updates are averaged, as in the source's equation; tasks are planted by the same rule.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from evidence.checks.toy import WIDTH, Batch, Layer, error, train
from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.router import Router
from roster.score import Constant, TaskTable
from roster.select import All, RelaxedBernoulli

SKILLS, TASKS, RANK, STEPS, FEW = 5, 9, 2, 1500, 300


class Ground:
    """Skills, and which two of them a task has; the last task is the new one."""

    def __init__(self) -> None:
        pairs = list(itertools.combinations(range(SKILLS), 2))
        self.true_NS = torch.zeros(len(pairs), SKILLS)
        for row, pair in enumerate(pairs):
            self.true_NS[row, list(pair)] = 0.5
        self.true_NS = self.true_NS[torch.randperm(len(pairs))]
        self.A_SrI, self.B_SOr = torch.randn(SKILLS, RANK, WIDTH), torch.randn(SKILLS, WIDTH, RANK) / 4

    def draw(self, tasks_B: Tensor) -> Batch:
        """Four tokens of each of these tasks."""
        x_BSI = torch.randn(len(tasks_B), 4, WIDTH)
        y_BSO = torch.einsum("bs,sor,sri,bti->bto", self.true_NS[tasks_B], self.B_SOr, self.A_SrI, x_BSI)
        return x_BSI, y_BSO, tasks_B


def _few_shot(way: str, shots: int = 2) -> Contender:
    """Relative error on the new task."""

    def run(draw: Draw) -> float:
        torch.manual_seed(draw.ground)
        ground = Ground()
        torch.manual_seed(draw.luck + 1_000)
        if way == "shared":
            layer = Layer(Router(Constant(torch.ones(1)), All("none")), 1, SKILLS * RANK)
        else:
            start_NS = torch.empty(TASKS + 1, SKILLS).uniform_(-1e-3, 1e-3)
            if way == "random":  # the skills of the known tasks by lot, and not learned
                start_NS[:TASKS] = torch.randn(TASKS, SKILLS).sign() * 4
            table = TaskTable(start_NS, trains=True).requires_grad_(way != "random")
            layer = Layer(Router(table, RelaxedBernoulli()), SKILLS, RANK)
        many = draw.steps(STEPS)
        train(layer, lambda: ground.draw(torch.randint(0, TASKS, (32,))), many, rate=5e-3, router_rate=5e-2)
        torch.manual_seed(draw.luck + 2_000)
        few = ground.draw(torch.full((shots,), TASKS))
        if way == "shared":
            train(layer, lambda: few, draw.steps(FEW), rate=5e-3)
        else:
            layer.router.score.requires_grad_(True)
            layer.experts.requires_grad_(False)
            train(layer, lambda: few, draw.steps(FEW), router_rate=5e-2)
        torch.manual_seed(draw.ground + 500_000)
        return error(layer, ground.draw(torch.full((256,), TASKS)))

    return run


CHECKS = (
    make_check(
        slug="polytropon",
        version=1,
        claim="With a learned table of tasks and skills a new task is learned from few examples better than otherwise.",
        ground="nine tasks of two of five skills, updates of rank 2 of a frozen layer of width 16; the new task has "
        "eight tokens to learn from",
        budget="the same total rank, rows and steps",
        contenders={
            "Polytropon": ("five skills and a learned table; of the new task its row is learned", _few_shot("learned")),
            "shared": ("one adapter of five times the rank, tuned whole", _few_shot("shared")),
            "random": ("the known tasks' skills by lot: without the learned table", _few_shot("random")),
            "more": ("control: the shared adapter, from 12 tokens", _few_shot("shared", shots=3)),
        },
        pairs=Pairs("Polytropon", "shared", "random", "more", "shared"),
        statistic=Statistic("relative squared error on the new task", "lower", 0.05),
    ),
)
