"""Capacity-aware inference's claims: under a capacity rerouting loses less than dropping, dropping by score less than
at random, and quality stays what it was. No time is measured; that no expert is given more than its capacity, on which
the time of experts that run side by side depends, is a test.

A top-2 mixture is trained without a balance loss on clusters of uneven frequency, then given a capacity: an even load.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from evidence.checks.blocks import Net
from evidence.checks.clusters import Clusters, net
from evidence.grounds.field import field, learned, missed
from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic

NONE, EVEN = 8.0, 1.0


@lru_cache(maxsize=2)
def _trained(draw: Draw) -> tuple[Net, Clusters]:
    """All treatments of the overflow share what was trained."""
    ground = field(draw, skew=1.0)
    return learned(draw, ground, "capacity-aware-inference", {"factor": NONE, "balance": 0.0}, steps=800), ground


def _with(factor: float, overflow: str) -> Contender:
    def run(draw: Draw) -> float:
        trained, ground = _trained(draw)
        capped = net("capacity-aware-inference", {"factor": factor, "overflow": overflow}).eval()
        capped.load_state_dict(trained.state_dict())
        return missed(draw, capped, ground)

    return run


CONTENDERS = {
    "reroute": ("what overflows goes to the next best expert with room", _with(EVEN, "reroute")),
    "drop by score": ("what overflows is dropped, the least weights first", _with(EVEN, "score")),
    "drop at random": ("what overflows is dropped, whichever", _with(EVEN, "random")),
    "no capacity": ("nothing overflows", _with(NONE, "score")),
}
COMMON: dict[str, Any] = {
    "slug": "capacity-aware-inference",
    "version": 1,
    "ground": "12 clusters of tokens with frequencies falling as 1 / n, each with a function; one block; 800 steps; "
    "capacity factor 1.0 at evaluation",
    "budget": "the same trained mixture for all, 8 experts of 8 units, 2 serve",
    "contenders": CONTENDERS,
}
WHAT = "relative squared error on fresh tokens"

CHECKS = (
    make_check(
        part="reroute",
        claim="Rerouting what overflows costs less than dropping it.",
        pairs=Pairs("reroute", "drop by score", "drop by score", "no capacity", "drop at random"),
        statistic=Statistic(WHAT, "lower", 0.01),
        **COMMON,
    ),
    make_check(
        part="score",
        claim="Dropping by score costs less than dropping at random.",
        pairs=Pairs("drop by score", "drop at random", "drop at random", "no capacity", "drop at random"),
        statistic=Statistic(WHAT, "lower", 0.01),
        **COMMON,
    ),
    make_check(
        part="quality",
        claim="With rerouting, the quality under a capacity is that without one.",
        pairs=Pairs("reroute", "no capacity", "drop at random", "drop at random", "no capacity"),
        statistic=Statistic(WHAT, "lower", 0.02, "no worse"),
        **COMMON,
    ),
)
