"""Experts trained apart, on tasks that come in clusters: the ground of Arrow's and PHATGOOSE's checks.

Toy: 4 clusters of 2 tasks. A cluster has its own inputs (a mean and a 4-dimensional subspace of 16) and its own
update; its second task differs from the first by a small update of its own. One LoRA of rank 3 is trained per task,
alone. Then all 8 meet: which router sends the inputs of a task to the right ones?

Shape legend: B rows, S tokens per row, I and O widths, E experts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from evidence.checks.toy import WIDTH, Batch, Layer, error, train
from evidence.protocol.check import Draw
from roster.library import Library, LowRank, make_adapter
from roster.router import Router
from roster.score import Constant, Random, TaskTable
from roster.select import All, TopK

CLUSTERS, TASKS, RANK, STEPS = 4, 8, 3, 800


@dataclass
class Apart:
    """The tasks, and one trained expert for each.

    Attributes:
        draw: a batch of given tasks.
        experts: the trained layers, one expert each.
    """

    draw: Callable[[Tensor], Batch]
    experts: list[Layer]

    def error(self, router: Router) -> float:
        """Relative error of all experts under a router, over all tasks."""
        layer = Layer(router, TASKS, RANK)
        factors = [each.experts.expert(0) for each in self.experts]
        layer.experts.A_RI.data = torch.cat([A_rI for A_rI, _, _ in factors]).detach()
        layer.experts.B_RO.data = torch.cat([B_Or.T for _, B_Or, _ in factors]).detach()
        torch.manual_seed(0)
        return error(layer.eval(), self.draw(torch.arange(TASKS).repeat(64)))

    def library(self) -> Library:
        """The experts as a library of one layer."""
        updates = [LowRank(*(part.detach() for part in each.experts.expert(0)[:2]), 1.0) for each in self.experts]
        return Library({f"task {t}": make_adapter(f"task {t}", {"layer": u}, "toy") for t, u in enumerate(updates)})

    def oracle(self) -> float:
        """Every task by its own expert."""
        return self.error(Router(TaskTable(torch.eye(TASKS)), All("none")))

    def uniform(self) -> float:
        """All experts alike."""
        return self.error(Router(Constant(torch.full((TASKS,), 1 / TASKS)), All("none")))

    def best_single(self) -> float:
        """The one expert that does best for all, chosen on the test."""
        return min(self.error(Router(Constant(torch.eye(TASKS)[one]), All("none"))) for one in range(TASKS))

    def by_lot(self, seed: int) -> float:
        """An expert at random for every token."""
        return self.error(Router(_Fixed(seed), TopK(1)))


class _Fixed(nn.Module):
    """Random scores that need no token ids."""

    def __init__(self, seed: int):
        super().__init__()
        self.random = Random(TASKS, seed).train()

    def forward(self, x_TD: Tensor, context) -> Tensor:
        """Scores [T, E], drawn anew at every call."""
        return self.random.train()(x_TD, context)


@lru_cache(maxsize=2)
def train_apart(draw_of: Draw) -> Apart:
    """Draws the tasks of a ground and trains their experts, once for all contenders of a draw."""
    torch.manual_seed(draw_of.ground)
    basis_CIK = torch.linalg.qr(torch.randn(CLUSTERS, WIDTH, 4)).Q
    mean_CI = torch.einsum("cik,ck->ci", basis_CIK, torch.randn(CLUSTERS, 4)) * 1.5
    update_COI = torch.randn(CLUSTERS, WIDTH, 2) @ torch.randn(CLUSTERS, 2, WIDTH) / 4
    own_EOI = torch.randn(TASKS, WIDTH, 1) @ torch.randn(TASKS, 1, WIDTH) / 16
    cluster_E = torch.arange(TASKS) // (TASKS // CLUSTERS)

    def draw(tasks_B: Tensor) -> Batch:
        cluster_B = cluster_E[tasks_B]
        within = torch.randn(len(tasks_B), 4, 4)
        x_BSI = mean_CI[cluster_B, None] + torch.einsum("bik,bsk->bsi", basis_CIK[cluster_B], within)
        update_BOI = update_COI[cluster_B] + own_EOI[tasks_B]
        return x_BSI, torch.einsum("boi,bsi->bso", update_BOI, x_BSI), tasks_B

    torch.manual_seed(draw_of.luck + 1_000)
    experts = []
    for task in range(TASKS):
        expert = Layer(Router(Constant(torch.ones(1)), All("none")), 1, RANK)
        expert.experts.A_RI.data.mul_(0.1)
        train(expert, lambda task=task: draw(torch.full((32,), task)), draw_of.steps(STEPS))
        experts.append(expert)
    return Apart(draw, experts)
