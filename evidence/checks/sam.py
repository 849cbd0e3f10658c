"""SAM's claim: several experts of one device's group are better than one, at equal arithmetic. That every token visits
one device is a test, not a claim.

The earlier check gave four experts four times the arithmetic; here an expert's units shrink as more of them serve.
"""

from __future__ import annotations

from evidence.grounds.field import by_lot, error_of
from evidence.protocol.check import Contender, make_check
from evidence.protocol.declaration import Pairs, Statistic


def _sam(k: int) -> Contender:
    """k of the 4 experts of one of 4 groups; 32 units per token."""
    return error_of("sam-switch-mixture", {"num_experts": 16, "groups": 4, "k": k}, hidden=32)


CHECKS = (
    make_check(
        slug="sam-switch-mixture",
        version=1,
        claim="At equal arithmetic, four experts of one group are better than one.",
        ground="12 equally frequent clusters of tokens, each with a function of its own; one block; 600 steps of 256",
        budget="32 units per token for all: 4 of 16 experts of 8, or 1 of 16 of 32, which is four times the "
        "parameters, or 1 of 4 of 32, which are as many",
        contenders={
            "SAM, four": ("the whole of one group of four", _sam(4)),
            "one of four": ("Switch with as many parameters", error_of("switch-transformer", hidden=32)),
            "SAM, one": ("one expert of one group, four times the parameters", _sam(1)),
            "any four": (
                "the best four of all 16, on any device",
                error_of("gshard-top2", {"num_experts": 16, "k": 4}, hidden=32),
            ),
            "lot": ("control: one of four by lot", error_of("switch-transformer", hidden=32, change=by_lot(1))),
        },
        pairs=Pairs("SAM, four", "one of four", "one of four", "one of four", "lot"),
        statistic=Statistic("relative squared error on fresh tokens", "lower", 0.02),
    ),
)
