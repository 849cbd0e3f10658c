"""Switch's claim: at equal cost per token a top-1 mixture reaches a lower loss than a dense block."""

from __future__ import annotations

from evidence.grounds.field import by_lot, error_of
from evidence.protocol.check import make_check
from evidence.protocol.declaration import Pairs, Statistic

CHECKS = (
    make_check(
        slug="switch-transformer",
        version=1,
        claim="At equal arithmetic per token, a top-1 mixture reaches a lower loss than a dense block.",
        ground="12 equally frequent clusters of tokens, each with a function of its own; one block; 600 steps of 256",
        budget="16 units per token; the mixture has 4 experts and so four times the parameters, as the source's",
        contenders={
            "Switch": ("top-1 of 4, balance 0.01", error_of("switch-transformer")),
            "dense": ("one block", error_of("dense-active")),
            "random": ("the same experts, chosen at random", error_of("switch-transformer", change=by_lot(1))),
            "dense, four times": (
                "control: dense, all the parameters",
                error_of("dense-active", hidden=64),
            ),
        },
        pairs=Pairs("Switch", "dense", "random", "dense, four times", "dense"),
        statistic=Statistic("relative squared error on fresh tokens", "lower", 0.02),
    ),
)
