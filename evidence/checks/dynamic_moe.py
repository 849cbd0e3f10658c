"""Dynamic MoE's claim in two parts: hard tokens get more experts, and with no more than two on average the loss is
lower than with two for every token.
"""

from __future__ import annotations

from typing import Any

from evidence.checks.choosing import Direct, EasyAndHard, experts_per_token
from evidence.grounds.field import error_of, field, learned, over_all
from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic

TUNED = {"p": 0.6, "entropy": 0.001}
FLAT = {"p": 0.6, "entropy": 0.0}
"""Spends at most two experts per token on this ground; 0.8, as first tried, spent more."""


def _more_for_hard(recipe: str, options: dict[str, float] | None = None) -> Contender:
    def run(draw: Draw) -> float:
        ground = field(draw, EasyAndHard)
        count_T, cluster_T = experts_per_token(learned(draw, ground, recipe, options, make=Direct), ground)
        hard_T = cluster_T >= ground.hard_from  # type: ignore[attr-defined]
        return float(count_T[hard_T].mean() - count_T[~hard_T].mean())

    return run


def _planted(draw: Draw) -> float:
    """Nothing is learned: hard tokens get two experts, easy ones one."""
    return 1.0 + 0.01 * ((draw.luck * 7919) % 101 - 50) / 50


GROUND = "12 clusters of tokens; nothing is wanted of one half, random functions of the other; 600 steps of 256"
BUDGET = "8 experts of 8 units; top-p: p = 0.6, which spends at most 2 per token on average; top-2: 2"


def _error(recipe: str, options: dict[str, float] | None = None, **more: Any) -> Contender:
    return error_of(recipe, options, kind=EasyAndHard, make=Direct, **more)


CHECKS = (
    make_check(
        slug="dynamic-moe-top-p",
        part="loss",
        version=1,
        claim="With at most two experts per token on average, top-p has a lower loss than two for every token.",
        ground=GROUND,
        budget=BUDGET,
        contenders={
            "top-p": ("entropy loss 0.001, balance 0.01", _error("dynamic-moe-top-p", TUNED)),
            "top-2": (
                "two for all, probabilities as weights",
                _error("gshard-top2", change=over_all(2)),
            ),
            "top-2, renormalised": ("two for every token, weights sum to one", _error("gshard-top2")),
            "wide": ("control: twice the arithmetic, top-2", _error("gshard-top2", change=over_all(2), hidden=32)),
        },
        pairs=Pairs("top-p", "top-2", "top-2", "wide", "top-2"),
        statistic=Statistic("relative squared error on fresh tokens", "lower", 0.02),
    ),
    make_check(
        slug="dynamic-moe-top-p",
        part="hard",
        version=1,
        claim="Harder tokens get more experts.",
        ground=GROUND,
        budget=BUDGET,
        contenders={
            "top-p": ("entropy loss 0.001, balance 0.01", _more_for_hard("dynamic-moe-top-p", TUNED)),
            "without the entropy loss": (
                "the same, weight 0",
                _more_for_hard("dynamic-moe-top-p", FLAT),
            ),
            "top-2": ("two for every token", _more_for_hard("gshard-top2")),
            "planted": ("control: one expert more for every hard token", _planted),
        },
        pairs=Pairs("top-p", "top-2", "top-2", "planted", "top-2"),
        statistic=Statistic("experts per hard token, less experts per easy token", "higher", 0.1),
    ),
)
