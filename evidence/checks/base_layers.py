"""BASE layers' claim: without a balance loss, the loss is no worse than that of top-1 with the best of several. That
loads are exactly even in training is a test, not a claim.
"""

from __future__ import annotations

from evidence.grounds.field import by_lot, error_of
from evidence.protocol.check import make_check
from evidence.protocol.declaration import Pairs, Statistic

CHECKS = (
    make_check(
        slug="base-layers",
        version=1,
        claim="Without a balance loss, the loss is no worse than that of top-1 with one.",
        ground="12 equally frequent clusters of tokens, each with a function of its own; one block; 600 steps of 256",
        budget="4 experts of 16 units, one serves",
        contenders={
            "BASE": ("assignment, no balance loss", error_of("base-layers")),
            "top-1, 0.01": (
                "Switch, balance 0.01, the best of three before",
                error_of("switch-transformer"),
            ),
            "top-1, 0.001": ("Switch, balance 0.001", error_of("switch-transformer", {"balance": 0.001})),
            "top-1, none": (
                "Switch without a balance loss: BASE without the assignment",
                error_of("switch-transformer", {"balance": 0.0}),
            ),
            "random": ("control: one expert at random", error_of("switch-transformer", change=by_lot(1))),
        },
        pairs=Pairs("BASE", "top-1, 0.01", "top-1, none", "random", "top-1, 0.01"),
        statistic=Statistic("relative squared error on fresh tokens", "lower", 0.02, "no worse"),
    ),
)
