"""BanditEval's claim: the best model is found with a twentieth of the scores, where plain ways need far more.

Recorded answers (ZeroEval CRUX, 51 models x 800 questions; a run draws 25 models and 300 questions). A run has found
the best when its model is within a point of the best accuracy on the run's questions.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.lm import data
from roster.lm.online.cells import UCBE, LowRank, Uniform, evaluate
from roster.lm.records import Matrix

RUNS, METHODS, EXAMPLES, CLOSE, SHARE = 12, 25, 300, 0.01, 0.1


@cache
def _scores() -> Matrix:
    score_NM = data.load("zeroeval-crux", texts=False).score_NM
    return score_NM[np.isfinite(score_NM).all(1)].T


def _found(plan: Uniform, share: float = SHARE) -> Contender:
    """Share of the runs in which the best was found; models and questions are the ground's."""

    def run(draw: Draw) -> float:
        found = []
        for number in range(1 if draw.short else RUNS):
            rng = np.random.default_rng([draw.ground, number])
            score_MN = _scores()[rng.choice(len(_scores()), METHODS, replace=False)]
            score_MN = score_MN[:, rng.choice(score_MN.shape[1], EXAMPLES, replace=False)]
            mean_M, budget = score_MN.mean(1), round(share * score_MN.size)
            said = evaluate(
                plan,
                lambda m, n, score_MN=score_MN: score_MN[m, n],
                *score_MN.shape,
                budget=budget,
                seed=draw.luck * RUNS + number,
            )
            best = [best for spent, best in said.path if spent <= budget][-1]
            found.append(bool(mean_M[best] >= mean_M.max() - CLOSE))
        return float(np.mean(found))

    return run


CHECKS = (
    make_check(
        slug="banditeval",
        version=1,
        claim="With a tenth of the scores, bandits with low-rank forecasts find the best model more often than others.",
        ground="recorded: ZeroEval CRUX, 12 runs a seed of 25 models and 300 questions out of 51 and 800",
        budget="a tenth of all scores for all",
        contenders={
            "UCB-E-LRF": ("UCB-E on forecasts of a low-rank model", _found(LowRank())),
            "uniform": ("cells at random", _found(Uniform())),
            "UCB-E": ("UCB-E without the low-rank forecasts", _found(UCBE())),
            "uniform, 40 %": ("control: cells at random, four times the budget", _found(Uniform(), 0.4)),
            "uniform, 2 %": ("control: cells at random, a fifth of the budget", _found(Uniform(), 0.02)),
        },
        pairs=Pairs("UCB-E-LRF", "uniform", "UCB-E", "uniform, 40 %", "uniform, 2 %"),
        statistic=Statistic("share of the runs in which the best model was found", "higher", 0.05),
    ),
)
