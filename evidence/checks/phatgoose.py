"""PHATGOOSE's claim: gates trained with one expert at a time, without pooled data, beat the merged average and the best
single expert.

The ground is `apart.py`: tasks that come in clusters and whose inputs differ. Where only an instruction tells tasks
apart, as on the pocket models, routing by tokens has nothing to go by (docs/results/mix.md).
"""

from __future__ import annotations

import math

import torch

from evidence.checks.apart import RANK, TASKS, Apart, train_apart
from evidence.checks.toy import WIDTH, Layer, train
from evidence.protocol.check import Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.router import Router
from roster.score import Cosine, Linear
from roster.select import All, TopK


def _gated(draw: Draw) -> float:
    apart = train_apart(draw)
    return _with_gates(apart, _gates(apart, draw))


def _untrained(draw: Draw) -> float:
    """The same number of gates, which nobody trained."""
    torch.manual_seed(draw.luck + 2_000)
    return _with_gates(train_apart(draw), torch.randn(TASKS, WIDTH))


def _gates(apart: Apart, draw: Draw) -> torch.Tensor:
    torch.manual_seed(draw.luck + 2_000)
    gates = []
    for task, expert in enumerate(apart.experts):
        gated = Layer(Router(Linear(WIDTH, 1, std=0.0), All("sigmoid")), 1, RANK)
        gated.experts.load_state_dict(expert.experts.state_dict())
        gated.experts.requires_grad_(False)
        rows = torch.full((32,), task)
        train(gated, lambda rows=rows: apart.draw(rows), draw.steps(200), router_rate=2e-2)
        gates.append(gated.router.score.weight_ED.detach()[0])
    return torch.stack(gates)


def _with_gates(apart: Apart, gate_ED: torch.Tensor) -> float:
    return apart.error(Router(Cosine(gate_ED, scale=math.sqrt(WIDTH), center=True), TopK(2)))


CHECKS = (
    make_check(
        slug="phatgoose",
        version=1,
        claim="Gates trained with one expert at a time beat the merged average and the best single expert.",
        ground="8 tasks in 4 clusters, each cluster with its own inputs and update of a frozen layer of width 16; a "
        "LoRA of rank 3 per task, trained apart",
        budget="the same 8 experts; PHATGOOSE uses 2 of them for a token, the average all",
        contenders={
            "PHATGOOSE": ("gates of 200 steps each, the best two", _gated),
            "best single": ("the one expert that does best on the test", lambda draw: train_apart(draw).best_single()),
            "average": ("all experts alike", lambda draw: train_apart(draw).uniform()),
            "untrained": ("gates that nobody trained, the best two", _untrained),
            "oracle": ("control: every task by its own expert", lambda draw: train_apart(draw).oracle()),
        },
        pairs=Pairs("PHATGOOSE", "average", "untrained", "oracle", "average"),
        statistic=Statistic("relative squared error over all tasks", "lower", 0.05),
    ),
)
