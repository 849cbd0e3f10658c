"""MoEC's claim: with little data many experts overfit; a cluster loss with dropout inside the clusters mends it.

768 tokens of 8 clusters to learn from, noise on what is wanted; 64 experts, top-2.
"""

from __future__ import annotations

from typing import Any

import torch

from evidence.checks.blocks import Batch, train
from evidence.checks.clusters import net
from evidence.grounds.field import field, missed
from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic

STEPS, ROWS = 500, 768


def _error(options: dict[str, Any], rows: int = ROWS) -> Contender:
    def run(draw: Draw) -> float:
        ground = field(draw, count=8)
        x_BD, y_BO, kind_B = ground.draw(rows)
        y_BO = y_BO + 0.3 * y_BO.std() * torch.randn_like(y_BO)

        def drawn() -> Batch:
            row_B = torch.randint(0, rows, (256,))
            return x_BD[row_B], y_BO[row_B], kind_B[row_B]

        contender = net("moec", options)
        train(contender, drawn, draw.steps(STEPS))
        return missed(draw, contender, ground)

    return run


def _options(clusters: int, dropout: float, loss: float) -> dict[str, Any]:
    return {"num_experts": 64, "clusters": clusters, "dropout": dropout, "cluster": loss}


PLAIN = _options(1, 0.0, 0.0)
CHECKS = (
    make_check(
        slug="moec",
        version=1,
        claim="With little data, a cluster loss and dropout inside the clusters lower the error of many experts.",
        ground=f"8 clusters of tokens, each with a random function; {ROWS} tokens with noise to learn from, {STEPS} "
        "steps of 256",
        budget="64 experts of 8 units, 2 serve; equal in all but losses and dropout",
        contenders={
            "MoEC": ("two clusters, half of each dropped, cluster loss 0.05", _error(_options(2, 0.5, 0.05))),
            "plain": ("neither", _error(PLAIN)),
            "dropout": (
                "half of the experts dropped, no clusters: without the cluster loss",
                _error(_options(1, 0.5, 0.0)),
            ),
            "more data": ("control: plain, an eighth more tokens", _error(PLAIN, ROWS * 9 // 8)),
        },
        pairs=Pairs("MoEC", "plain", "dropout", "more data", "plain"),
        statistic=Statistic("relative squared error on fresh tokens", "lower", 0.02),
    ),
)
