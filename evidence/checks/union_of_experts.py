"""Union of experts' claim: a block in slices of which a router uses half beats a dense block of the same arithmetic.

That all slices together are the dense block is shown by tests/recipes/test_layer_recipes.py.
"""

from __future__ import annotations

from evidence.grounds.field import by_lot, error_of
from evidence.protocol.check import make_check
from evidence.protocol.declaration import Pairs, Statistic

HALF = {"k": 4, "patch": 1}

CHECKS = (
    make_check(
        slug="union-of-experts",
        version=1,
        claim="A block in eight slices of which a router uses four beats a dense block of the same arithmetic.",
        ground="12 clusters of tokens, each with a random function, 600 steps of 256",
        budget="32 hidden units a token; the sliced block has 64 in all",
        contenders={
            "union": ("4 of 8 slices, by the router", error_of("union-of-experts", HALF, hidden=32)),
            "dense": ("one block of 32 units", error_of("dense-active", hidden=32)),
            "lot": (
                "4 of 8 slices at random for every token",
                error_of("union-of-experts", HALF, hidden=32, change=by_lot(4)),
            ),
            "all": ("all slices, twice the arithmetic", error_of("union-of-experts", {"k": 8, "patch": 1}, hidden=64)),
            "wider": ("control: one block of 40 units", error_of("dense-active", hidden=40)),
        },
        pairs=Pairs("union", "dense", "lot", "wider", "dense"),
        statistic=Statistic("relative squared error on fresh tokens", "lower", 0.02),
    ),
)
