"""Polytropon's own claim: built from tasks with known overlapping skills, the table of tasks and skills is recovered,
and a new combination is learned from few examples better than by one shared adapter.

Toy: 5 skills of rank 2; 9 tasks, each of 2 of them, averaged as the recipe does (A and B separately). After training, an eleventh task (a pair not seen) is
learned from 32 examples by its row of the table alone; the shared adapter (one LoRA of the same total rank, trained
on all tasks) is tuned on the same examples.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from roster.arena.checks.toy import WIDTH, Batch, Layer, error, train
from roster.router import Router
from roster.score import Constant, TaskTable
from roster.select import All, RelaxedBernoulli

SKILLS, TASKS, RANK, STEPS = 5, 9, 2, 3000


def check(seed: int) -> dict[str, float]:
    """Figures of one seed: agreement of the overlap between tasks, and few-shot errors."""
    torch.manual_seed(seed)
    A_SrI, B_SOr = torch.randn(SKILLS, RANK, WIDTH), torch.randn(SKILLS, WIDTH, RANK) / 4
    pairs = list(itertools.combinations(range(SKILLS), 2))
    true_NS = torch.zeros(len(pairs), SKILLS)
    for row, pair in enumerate(pairs):
        true_NS[row, list(pair)] = 0.5
    order = torch.randperm(len(pairs))
    true_NS = true_NS[order]

    def draw(tasks: Tensor) -> Batch:
        x_BSI = torch.randn(len(tasks), 4, WIDTH)
        A_BrI, B_BOr = torch.einsum("bs,sri->bri", true_NS[tasks], A_SrI), torch.einsum("bs,sor->bor", true_NS[tasks], B_SOr)
        return x_BSI, torch.einsum("bor,bri,bsi->bso", B_BOr, A_BrI, x_BSI), tasks

    table = TaskTable(torch.empty(TASKS + 1, SKILLS).uniform_(-1e-3, 1e-3), trains=True)
    poly = Layer(Router(table, RelaxedBernoulli()), SKILLS, RANK, average="factors")
    shared = Layer(Router(Constant(torch.ones(1)), All("none")), 1, SKILLS * RANK)
    for layer in (poly, shared):
        train(layer, lambda: draw(torch.randint(0, TASKS, (32,))), STEPS, rate=5e-3, router_rate=5e-2)
    few = draw(torch.full((8,), TASKS))
    poly.experts.requires_grad_(False)
    train(poly, lambda: few, 300, router_rate=5e-2)
    train(shared, lambda: few, 300, rate=5e-3)
    unseen = draw(torch.full((256,), TASKS))
    seen = draw(torch.arange(TASKS).repeat(32))
    return {
        "overlap correlation": _overlap(table.table_NE[:TASKS], true_NS[:TASKS]),
        "seen error": error(poly, seen),
        "few-shot error": error(poly, unseen),
        "few-shot error, shared adapter": error(shared, unseen),
    }


def shown(figures: list[dict[str, float]]) -> bool:
    """Overlap recovered (mean correlation at least 0.8), and few-shot better at every seed."""
    overlap = np.mean([each["overlap correlation"] for each in figures])
    better = all(each["few-shot error"] < each["few-shot error, shared adapter"] for each in figures)
    return bool(overlap >= 0.8 and better)


def _overlap(logits_NE: Tensor, true_NS: Tensor) -> float:
    """Correlation, over pairs of tasks, of how much they share: by the learned table and in truth."""
    on_NE = logits_NE.detach().sigmoid()
    learned_NE = on_NE / on_NE.sum(1, keepdim=True)
    pair = np.triu_indices(len(true_NS), 1)
    return float(np.corrcoef((learned_NE @ learned_NE.T).numpy()[pair], (true_NS @ true_NS.T).numpy()[pair])[0, 1])
