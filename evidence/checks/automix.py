"""AutoMix's claim: a meta-verifier over a small model's own checks saves calls to the large one at equal quality.

Simulated: the small model is right with a chance of 0.6, the large one with 0.85; some prompts are beyond both. A check
agrees with a right answer by 0.75, with a wrong one by 0.35, but with a wrong answer to a prompt that is beyond both by
0.1: what looks worst is not worth the large model's price. All are judged at a mean of 0.3 calls to the large model:
each escalates its lowest bins of confidence until that share, and part of the bin that crosses it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.lm.records import Matrix
from roster.lm.verification import MetaVerifier

CHECKED, LEARN, JUDGE, CALLS = 8, 1000, 4000, 0.3


@dataclass(frozen=True)
class _Asked:
    """Share of agreeing checks, and scores of both models, [N] each."""

    share_N: Matrix
    small_N: Matrix
    large_N: Matrix


def _asked(count: int, ground: int, luck: list[int]) -> _Asked:
    small, large, beyond, agrees = np.random.default_rng([ground, 0]).normal([0.6, 0.85, 0.25, 0.75], 0.02)
    rng = np.random.default_rng(luck)
    beyond_N = rng.random(count) < beyond
    small_N = (rng.random(count) < small / (1 - beyond)) & ~beyond_N
    large_N = (rng.random(count) < min(1.0, large / (1 - beyond))) & ~beyond_N
    chance_N = np.where(small_N, agrees, np.where(beyond_N, 0.1, 0.35))
    return _Asked(rng.binomial(CHECKED, chance_N) / CHECKED, small_N.astype(float), large_N.astype(float))


def _quality(way: str) -> Contender:
    """Mean score when the prompts of least confidence go to the large model."""

    def run(draw: Draw) -> float:
        learn, judge = _asked(LEARN, draw.ground, [draw.luck, 1]), _asked(JUDGE, draw.ground, [draw.luck, 2])
        rng = np.random.default_rng([draw.luck, 3])
        if way == "meta":
            verifier = MetaVerifier(CHECKED).fit(learn.share_N, learn.small_N, learn.large_N)
            sure_N = verifier.confidence(judge.share_N)
        elif way == "share":
            sure_N = judge.share_N
        else:
            needy_N = (judge.large_N > judge.small_N) & (rng.random(JUDGE) < (0.3 if way == "told" else 0.0))
            sure_N = 1.0 - needy_N
        order_N = np.lexsort((rng.random(JUDGE), sure_N))  # ties by lot
        to_large = order_N[: round(CALLS * JUDGE)]
        score_N = judge.small_N.copy()
        score_N[to_large] = judge.large_N[to_large]
        return float(score_N.mean())

    return run


CHECKS = (
    make_check(
        slug="automix",
        version=1,
        claim="At equal cost, a meta-verifier over a small model's own checks is right more often than other cascades.",
        ground="simulated: a small and a large model, eight noisy checks of each answer, a quarter of the prompts "
        "beyond both models; a thousand prompts to learn from",
        budget="the same checks; 0.3 calls to the large model per prompt for all",
        contenders={
            "AutoMix": ("the bins where the large model helps most, by the records", _quality("meta")),
            "threshold": ("the lowest shares of agreeing checks: without the meta-verifier", _quality("share")),
            "lot": ("prompts by lot", _quality("lot")),
            "told": ("control: by lot, but told of three in ten of the prompts where it helps", _quality("told")),
        },
        pairs=Pairs("AutoMix", "threshold", "threshold", "told", "lot"),
        statistic=Statistic("share of right answers", "higher", 0.01),
    ),
)
