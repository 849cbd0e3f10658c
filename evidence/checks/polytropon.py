"""Polytropon's own claim: built from tasks with known overlapping skills, the table of tasks and skills is recovered,
and a new combination is learned from few examples better than by one shared adapter.

Toy: 5 skills of rank 2; 9 tasks of 2 skills each. A tenth pair, never seen, is then learned from 8 examples: by its
row of the table alone, and by a shared adapter (one LoRA of the same total rank, trained on all tasks) that is tuned
whole. Once with the updates B A averaged (the equation of the source, and the recipe's default), once with the
factors A and B averaged separately (the authors' code); the tasks are planted by the same rule.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from evidence.checks.toy import WIDTH, Batch, Layer, error, train
from roster.router import Router
from roster.score import Constant, TaskTable
from roster.select import All, RelaxedBernoulli

SKILLS, TASKS, RANK, STEPS = 5, 9, 2, 3000


def check(seed: int) -> dict[str, float]:
    """Figures of one seed, for both ways of averaging."""
    return {
        f"{average}: {name}": value
        for average in ("updates", "factors")
        for name, value in _learn(average, seed).items()
    }


def shown(figures: list[dict[str, float]], average: str = "updates") -> bool:
    """With updates averaged: overlap recovered (mean correlation 0.8 or more), few-shot better at every seed."""
    overlap = np.mean([each[f"{average}: overlap correlation"] for each in figures])
    better = all(each[f"{average}: few-shot error"] < each[f"{average}: shared few-shot error"] for each in figures)
    return bool(overlap >= 0.8 and better)


def _learn(average: str, seed: int) -> dict[str, float]:
    torch.manual_seed(seed)
    true_NS = _pairs()
    A_SrI, B_SOr = torch.randn(SKILLS, RANK, WIDTH), torch.randn(SKILLS, WIDTH, RANK) / 4

    def draw(tasks_B: Tensor) -> Batch:
        x_BSI, weight_BS = torch.randn(len(tasks_B), 4, WIDTH), true_NS[tasks_B]
        if average == "factors":
            A_BrI, B_BOr = torch.einsum("bs,sri->bri", weight_BS, A_SrI), torch.einsum("bs,sor->bor", weight_BS, B_SOr)
            return x_BSI, torch.einsum("bor,bri,bti->bto", B_BOr, A_BrI, x_BSI), tasks_B
        return x_BSI, torch.einsum("bs,sor,sri,bti->bto", weight_BS, B_SOr, A_SrI, x_BSI), tasks_B

    table = TaskTable(torch.empty(TASKS + 1, SKILLS).uniform_(-1e-3, 1e-3), trains=True)
    poly = Layer(Router(table, RelaxedBernoulli()), SKILLS, RANK, average)
    shared = Layer(Router(Constant(torch.ones(1)), All("none")), 1, SKILLS * RANK)
    for layer in (poly, shared):
        train(layer, lambda: draw(torch.randint(0, TASKS, (32,))), STEPS, rate=5e-3, router_rate=5e-2)
    few = draw(torch.full((2,), TASKS))
    poly.experts.requires_grad_(False)
    train(poly, lambda: few, 300, router_rate=5e-2)
    train(shared, lambda: few, 300, rate=5e-3)
    unseen = draw(torch.full((256,), TASKS))
    return {
        "overlap correlation": _overlap(table.table_NE[:TASKS], true_NS[:TASKS]),
        "seen error": error(poly, draw(torch.arange(TASKS).repeat(32))),
        "few-shot error": error(poly, unseen),
        "shared few-shot error": error(shared, unseen),
    }


def _pairs() -> Tensor:
    """The ten tasks in a random order: each gives one half to either of its two skills, [N, S]."""
    pairs = list(itertools.combinations(range(SKILLS), 2))
    true_NS = torch.zeros(len(pairs), SKILLS)
    for row, pair in enumerate(pairs):
        true_NS[row, list(pair)] = 0.5
    return true_NS[torch.randperm(len(pairs))]


def _overlap(logits_NE: Tensor, true_NS: Tensor) -> float:
    """Correlation, over pairs of tasks, of how much they share: by the learned table and in truth."""
    on_NE = logits_NE.detach().sigmoid()
    learned_NE = on_NE / on_NE.sum(1, keepdim=True)
    pair = np.triu_indices(len(true_NS), 1)
    return float(np.corrcoef((learned_NE @ learned_NE.T).numpy()[pair], (true_NS @ true_NS.T).numpy()[pair])[0, 1])
