"""HMoE's claim: experts of different sizes, with a penalty on their parameters, beat experts of equal size at no more
parameters at work.
"""

from __future__ import annotations

from typing import Any

from evidence.checks.choosing import Direct, EasyAndHard
from evidence.grounds.field import error_of
from evidence.protocol.check import Contender, make_check
from evidence.protocol.declaration import Pairs, Statistic


def _error(recipe: str, options: dict[str, Any] | None = None, **more: Any) -> Contender:
    return error_of(recipe, options, kind=EasyAndHard, make=Direct, **more)


CHECKS = (
    make_check(
        slug="hmoe",
        version=1,
        claim="Experts of different sizes, with a penalty on their parameters, beat experts of equal size.",
        ground="12 clusters of tokens; nothing is wanted of one half, random functions of the others; 600 steps of 256",
        budget="8 experts of 8 units on average, 2 serve; sizes from half to one and a half of the mean; the penalty "
        "holds the units at work below the mean",
        contenders={
            "HMoE": ("sizes in steps, parameter penalty 0.01", _error("hmoe")),
            "equal": ("equal sizes, balance 0.01", _error("gshard-top2")),
            "equal, penalty": ("equal sizes, the same penalty: without the sizes", _error("hmoe", {"spread": 0.0})),
            "no penalty": ("sizes in steps, no penalty", _error("hmoe", {"penalty": 0.0})),
            "wider": ("control: equal sizes of 10 units", _error("gshard-top2", hidden=20)),
        },
        pairs=Pairs("HMoE", "equal", "equal, penalty", "wider", "equal"),
        statistic=Statistic("relative squared error on fresh tokens", "lower", 0.02),
    ),
)
