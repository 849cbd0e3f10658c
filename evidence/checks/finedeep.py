"""Finedeep's claim: a dense block cut into experts of several sub-layers beats the block at equal parameters."""

from __future__ import annotations

from evidence.checks.choosing import Direct
from evidence.grounds.field import error_of
from evidence.protocol.check import make_check
from evidence.protocol.declaration import Pairs, Statistic

CUT = {"make": Direct, "hidden": 64}

CHECKS = (
    make_check(
        slug="finedeep",
        version=1,
        claim="A dense block cut into experts of two sub-layers beats the block at equal parameters and arithmetic.",
        ground="12 clusters of tokens, each with a random function, 600 steps of 256",
        budget="64 hidden units in all, and all of them serve; the routers come on top, 1 % of the arithmetic",
        contenders={
            "Finedeep": ("two sub-layers of 4 experts", error_of("finedeep", **CUT)),
            "dense": ("one block", error_of("dense-active", **CUT)),
            "one sub-layer": (
                "one sub-layer of 8 experts: without the depth",
                error_of("finedeep", {"sublayers": 1, "experts": 8}, **CUT),
            ),
            "wider": ("control: one block of 80 units", error_of("dense-active", make=Direct, hidden=80)),
        },
        pairs=Pairs("Finedeep", "dense", "one sub-layer", "wider", "dense"),
        statistic=Statistic("relative squared error on fresh tokens", "lower", 0.02),
    ),
)
