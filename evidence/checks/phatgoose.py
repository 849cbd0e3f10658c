"""PHATGOOSE's own claim: gates trained with one expert at a time, without pooled data, beat the merged average and the
best single expert.

The ground is `apart.py`: tasks that come in clusters and whose inputs differ. Where only an instruction tells tasks
apart, as on the pocket models, the claim does not hold (docs/results/mix.md).
"""

from __future__ import annotations

import math

import torch

from evidence.checks.apart import RANK, TASKS, train_apart
from evidence.checks.toy import WIDTH, Layer, train
from roster.router import Router
from roster.score import Cosine, Linear
from roster.select import All, TopK


def check(seed: int) -> dict[str, float]:
    """Relative errors."""
    apart = train_apart(seed)
    gates = []
    for task, expert in enumerate(apart.experts):
        gated = Layer(Router(Linear(WIDTH, 1, std=0.0), All("sigmoid")), 1, RANK)
        gated.experts.load_state_dict(expert.experts.state_dict())
        gated.experts.requires_grad_(False)
        train(gated, lambda task=task: apart.draw(torch.full((32,), task)), 200, router_rate=2e-2)
        gates.append(gated.router.score.weight_ED.detach()[0])
    score = Cosine(torch.stack(gates), scale=math.sqrt(WIDTH), center=True)
    return {
        "PHATGOOSE, top 1": apart.error(Router(score, TopK(1))),
        "PHATGOOSE, top 2": apart.error(Router(score, TopK(2))),
        **apart.bounds(seed),
        "experts": TASKS,
    }


def shown(figures: list[dict[str, float]]) -> bool:
    """At every seed, the top 2 are below uniform mixing (the merged average) and the best single expert."""
    return all(each["PHATGOOSE, top 2"] < min(each["uniform"], each["best single"]) for each in figures)
