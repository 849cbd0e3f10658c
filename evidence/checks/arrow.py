"""Arrow's claim: routed by their own directions, without training, adapters beat uniform mixing and random routing.

The ground is `apart.py`: tasks that come in clusters and whose inputs differ. Where only an instruction tells tasks
apart, as on the pocket models, routing by tokens has nothing to go by (docs/results/mix.md).
"""

from __future__ import annotations

import torch

from evidence.checks.apart import train_apart
from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.router import Router
from roster.score import Prototype
from roster.score.prototype import top_input_direction
from roster.select import TopK


def _arrow(k: int, shuffled: bool = False) -> Contender:
    def run(draw: Draw) -> float:
        apart = train_apart(draw)
        factors = [each.experts.expert(0) for each in apart.experts]
        vectors_ED = torch.stack([top_input_direction(A.detach(), B.detach()) for A, B, _ in factors])
        if shuffled:
            torch.manual_seed(draw.luck)
            vectors_ED = torch.nn.functional.normalize(torch.randn_like(vectors_ED), dim=1)
        return apart.error(Router(Prototype(vectors_ED), TopK(k)))

    return run


CHECKS = (
    make_check(
        slug="arrow-mbc",
        version=1,
        claim="Without any training, Arrow beats uniform mixing and random routing.",
        ground="8 tasks in 4 clusters, each cluster with its own inputs and update of a frozen layer of width 16; a "
        "LoRA of rank 3 per task, trained apart",
        budget="the same 8 experts; Arrow uses 3 of them for a token, uniform mixing all",
        contenders={
            "Arrow": ("each expert's first direction, the best three", _arrow(3)),
            "Arrow, one": ("the same, the best one", _arrow(1)),
            "uniform": ("all experts alike", lambda draw: train_apart(draw).uniform()),
            "random": ("an expert at random for every token", lambda draw: train_apart(draw).by_lot(draw.luck)),
            "other directions": ("random directions in place of the experts' own, the best three", _arrow(3, True)),
            "oracle": ("control: every task by its own expert", lambda draw: train_apart(draw).oracle()),
        },
        pairs=Pairs("Arrow", "uniform", "other directions", "oracle", "uniform"),
        statistic=Statistic("relative squared error over all tasks", "lower", 0.05),
    ),
)
