"""Expert choice's claim: it reaches the loss of top-2 routing in half of the steps. Even loads are a test."""

from __future__ import annotations

from evidence.grounds.field import STEPS, error_of, over_all
from evidence.protocol.check import make_check
from evidence.protocol.declaration import Pairs, Statistic


def _top2(steps: int, **more: object):  # type: ignore[no-untyped-def]
    return error_of("gshard-top2", skew=0.5, change=over_all(2), steps=steps, **more)


CHECKS = (
    make_check(
        slug="expert-choice",
        version=1,
        claim="Half of the training steps reach the loss of token-choice top-2.",
        ground="12 clusters of tokens with frequencies falling as 1 / sqrt(n), each with a function; one block",
        budget="8 experts of 8 units, 2 per token on average; 300 steps against 600, each with its own schedule",
        contenders={
            "expert choice, half": ("experts pick, 300 steps", error_of("expert-choice", skew=0.5, steps=STEPS // 2)),
            "top-2": ("probabilities over all as weights, balance 0.01, 600 steps", _top2(STEPS)),
            "top-2, renormalised": ("weights sum to one, 600 steps", error_of("gshard-top2", skew=0.5)),
            "top-2, half": ("300 steps", _top2(STEPS // 2)),
            "top-2, tenth": ("control: a handicap, 60 steps", _top2(STEPS // 10)),
        },
        pairs=Pairs("expert choice, half", "top-2", "top-2, half", "top-2, tenth", "top-2"),
        statistic=Statistic("relative squared error on fresh tokens", "lower", 0.02, "no worse"),
    ),
)
