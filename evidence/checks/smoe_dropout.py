"""SMoE-Dropout's claims: under a frozen random router and a growing k, a block gets better with every expert that is
added at inference, and with all of them it beats the dense block of the same size.
"""

from __future__ import annotations

from typing import Any

from evidence.checks.blocks import Net
from evidence.grounds.field import field, learned, missed
from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic

STEPS, HIDDEN, PARTS, HALF = 1500, 64, 8, 4


def _fixed(contender: Net) -> None:
    block: Any = contender.blocks[0]
    block.router.select.end = HALF


def _at(contender: Net, k: int) -> Net:
    block: Any = contender.blocks[0]
    block.router.select.end = PARTS
    block.router.select.k_now.fill_(k)
    return contender


def _slope(growing: bool, options: dict[str, Any] | None = None) -> Contender:
    """How much the error falls from half of the experts to all, relative to that of half."""

    def run(draw: Draw) -> float:
        ground = field(draw)
        change = None if growing else _fixed
        contender = learned(draw, ground, "smoe-dropout", options, change, STEPS, hidden=HIDDEN)
        half, whole = (missed(draw, _at(contender, k), ground) for k in (HALF, PARTS))
        return 1 - whole / half

    return run


def _error(recipe: str, hidden: int = HIDDEN, fixed: bool = False) -> Contender:
    def run(draw: Draw) -> float:
        ground = field(draw)
        change = _fixed if fixed else None
        return missed(draw, learned(draw, ground, recipe, change=change, steps=STEPS, hidden=hidden), ground)

    return run


GROUND: dict[str, Any] = {
    "slug": "smoe-dropout",
    "version": 1,
    "ground": f"12 clusters of tokens, each with a random function, {STEPS:,} steps of 256",
    "budget": "a block of 64 hidden units in 8 parts, of which 4 serve at first and all in the end; dense: all always",
}

CHECKS = (
    make_check(
        part="slope",
        claim="Trained with a growing k, a block is better the more experts serve at inference.",
        contenders={
            "growing": ("k grows from 4 to 8", _slope(growing=True)),
            "fixed": ("k stays 4: without the growth", _slope(growing=False)),
            "all": ("control: trained with all 8 from the beginning", _slope(growing=True, options={"start": PARTS})),
        },
        pairs=Pairs("growing", "fixed", "fixed", "all", "fixed"),
        statistic=Statistic("fall of the error from half of the experts to all, as a share", "higher", 0.05),
        **GROUND,
    ),
    make_check(
        part="dense",
        claim="With all experts on, it beats the dense block of the same size.",
        contenders={
            "growing": ("k grows from 4 to 8", _error("smoe-dropout")),
            "dense": ("the whole block from the beginning", _error("dense-active")),
            "fixed": ("k stays 4, half of the arithmetic in the end", _error("smoe-dropout", fixed=True)),
            "wider": ("control: a dense block of 80 units", _error("dense-active", hidden=80)),
        },
        pairs=Pairs("growing", "dense", "fixed", "wider", "dense"),
        statistic=Statistic("relative squared error on fresh tokens", "lower", 0.02),
        **GROUND,
    ),
)
