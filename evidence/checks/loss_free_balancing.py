"""Loss-free balancing's claims: a moving bias balances as well as a loss does, at a lower error.

All contenders have the same sigmoid gate; what differs is nothing, a balance loss (0.1), or the bias (0.01 a step).
"""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from evidence.checks.blocks import Net
from evidence.checks.clusters import Clusters, excess, routes
from evidence.grounds.field import by_lot, field, learned, missed
from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.balance import LoadBalancing

Way = Literal["bias", "loss", "nothing", "lot"]


def _learned(draw: Draw, way: Way, weight: float = 0.1) -> tuple[Net, Clusters]:
    ground = field(draw, skew=1.0)

    def change(contender: Net) -> None:
        router = contender.blocks[0].router
        if way != "bias":
            router.balance, router._bias_index = nn.ModuleList(), None
        if way == "loss":
            router.balance.append(LoadBalancing(weight))
        if way == "lot":
            by_lot(2)(contender)

    return learned(draw, ground, "loss-free-balancing", {"rate": 0.01}, change, steps=800), ground


def _error(way: Way, weight: float = 0.1) -> Contender:
    def run(draw: Draw) -> float:
        contender, ground = _learned(draw, way, weight)
        return missed(draw, contender, ground)

    return run


def _excess(way: Way) -> Contender:
    def run(draw: Draw) -> float:
        contender, ground = _learned(draw, way)
        return excess(routes(contender, ground.draw(4096))[0])

    return run


COMMON: dict[str, Any] = {
    "slug": "loss-free-balancing",
    "version": 1,
    "ground": "12 clusters of tokens with frequencies falling as 1 / n, each with a function; 800 steps of 256",
    "budget": "8 experts of 8 units, 2 serve, a sigmoid gate; equal parameters but for the bias",
}

CHECKS = (
    make_check(
        part="error",
        claim="The loss is lower than with a balance loss.",
        contenders={
            "bias": ("a moving bias, no balance loss", _error("bias")),
            "loss": ("a balance loss of weight 0.1, which balances about as well", _error("loss")),
            "nothing": ("neither", _error("nothing")),
            "lot": ("control: experts by lot", _error("lot")),
        },
        pairs=Pairs("bias", "loss", "loss", "nothing", "lot"),
        statistic=Statistic("relative squared error on fresh tokens", "lower", 0.02),
        **COMMON,
    ),
    make_check(
        part="load",
        claim="The load is no less even than with a balance loss.",
        contenders={
            "bias": ("a moving bias, no balance loss", _excess("bias")),
            "loss": ("a balance loss of weight 0.1", _excess("loss")),
            "nothing": ("neither: without the bias; as the control, a handicap", _excess("nothing")),
        },
        pairs=Pairs("bias", "loss", "nothing", "nothing", "loss"),
        statistic=Statistic("excess load of the busiest expert, relative to an even one", "lower", 0.2, "no worse"),
        **COMMON,
    ),
)
