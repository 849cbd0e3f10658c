"""ReMoE's claim: with as many experts per token on average, ReLU routing has a lower loss than top-k.

The training is short, so the price of gates moves by 1.05 a step from 1e-4, where the source's moves by 1.2 from 1e-8.
"""

from __future__ import annotations

from evidence.grounds.field import by_lot, error_of, over_all
from evidence.protocol.check import make_check
from evidence.protocol.declaration import Pairs, Statistic

STEPS = 1500

CHECKS = (
    make_check(
        slug="remoe",
        version=1,
        claim="With as many experts per token on average, ReLU routing has a lower loss than top-k.",
        ground="12 equally frequent clusters of tokens, each with a function of its own; one block; 1,500 steps of 256",
        budget="8 experts of 8 units; ReMoE's price is steered to 2 experts per token on average, top-2 has 2",
        contenders={
            "ReMoE": ("ReLU gates, adaptive price", error_of("remoe", {"start": 1e-4, "rate": 1.05}, steps=STEPS)),
            "top-2": ("probabilities as weights", error_of("gshard-top2", change=over_all(2), steps=STEPS)),
            "top-2, renormalised": ("weights sum to one", error_of("gshard-top2", steps=STEPS)),
            "lot": ("control: experts by lot", error_of("gshard-top2", change=by_lot(2), steps=STEPS)),
        },
        pairs=Pairs("ReMoE", "top-2", "top-2", "top-2", "lot"),
        statistic=Statistic("relative squared error on fresh tokens", "lower", 0.02),
    ),
)
