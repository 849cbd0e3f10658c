"""EvoMoE's claim: experts that grow out of one, under a gate that goes from dense to sparse, beat a top-1 mixture.

Nearly all experts serve in training, so the baseline at equal steps is the source's, and beside it stands one at equal
arithmetic: top-1 for as many steps as EvoMoE's expert calls would pay.
"""

from __future__ import annotations

from typing import Any

from evidence.checks.blocks import Net
from evidence.grounds.field import STEPS, error_of
from evidence.protocol.check import make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.select import TopK


def _sparse(contender: Net) -> None:
    """Experts out of one, under a top-1 gate from the beginning."""
    block: Any = contender.blocks[0]
    block.router.select = TopK(1, "all")


CHECKS = (
    make_check(
        slug="evomoe",
        version=1,
        claim="Experts that grow out of one, under a gate from dense to sparse, beat a top-1 mixture.",
        ground="12 clusters of tokens, each with a random function, 600 steps of 256",
        budget="4 experts of 16 units, one serves at evaluation; in training EvoMoE's gate is dense, four times the "
        "arithmetic, which the baseline gets as four times the steps",
        contenders={
            "EvoMoE": ("copies of one expert, a gate from dense to sparse", error_of("evomoe")),
            "Switch, equal arithmetic": (
                "top-1, four times the steps",
                error_of("switch-transformer", steps=4 * STEPS),
            ),
            "Switch": ("top-1, the same steps", error_of("switch-transformer")),
            "sparse": ("copies of one expert under a top-1 gate", error_of("evomoe", change=_sparse)),
            "from scratch": ("a gate from dense to sparse over random experts", error_of("evomoe", {"spawn": 0.0})),
        },
        pairs=Pairs("EvoMoE", "Switch, equal arithmetic", "sparse", "Switch, equal arithmetic", "Switch"),
        statistic=Statistic("relative squared error on fresh tokens", "lower", 0.02),
    ),
)
