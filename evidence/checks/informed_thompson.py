"""Informed Thompson sampling's claim: an expert's choices of known competence lower the regret.

Recorded answers (ZeroEval CRUX): ten of 51 models are the arms, questions come one by one, a gain is whether the chosen
model's recorded answer was right, and regret is against the best of the ten on all questions. An expert chose 20 times
with chances softmax(competence x true accuracy).
"""

from __future__ import annotations

from functools import cache

import numpy as np

from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.lm import data
from roster.lm.online import replay
from roster.lm.online.informed import InformedThompson
from roster.lm.records import Matrix

RUNS, STEPS, ARMS, DEMONSTRATIONS = 20, 300, 10, 20


@cache
def _scores() -> Matrix:
    score_NM = data.load("zeroeval-crux", texts=False).score_NM
    return score_NM[np.isfinite(score_NM).all(1)]


def _regret(competence: float, believed: float | None) -> Contender:
    """Mean regret after 300 questions; arms and demonstrations are the ground's.

    Args:
        competence: with which the expert chose.
        believed: competence that the learner takes it to have; None shows it nothing.
    """
    names = tuple(map(str, range(ARMS)))

    def run(draw: Draw) -> float:
        regrets = []
        accuracy_M = _scores().mean(0)
        for number in range(1 if draw.short else RUNS):
            rng = np.random.default_rng([draw.ground, number])
            score_NM = _scores()[:, rng.choice(_scores().shape[1], ARMS, replace=False)]
            gain_NM, mean_M = score_NM[rng.permutation(len(score_NM))[:STEPS]], score_NM.mean(0)
            chance_M = np.exp(competence * (mean_M - mean_M.max()))
            shown_J = rng.choice(ARMS, DEMONSTRATIONS, p=chance_M / chance_M.sum())
            demonstrations = () if believed is None else tuple(names[arm] for arm in shown_J)
            prior = (float(accuracy_M.mean()), float(accuracy_M.std()))
            learner = InformedThompson(names, demonstrations, believed or 0.0, prior, seed=1000 * draw.luck + number)
            played = replay(learner, np.zeros((STEPS, 1)), gain_NM)
            regrets.append((mean_M.max() - mean_M[played.choice_N]).sum())
        return float(np.mean(regrets))

    return run


CHECKS = (
    make_check(
        slug="informed-thompson-sampling",
        version=1,
        claim="Twenty choices of an expert whose competence is known lower the regret of Thompson sampling.",
        ground="recorded: ZeroEval CRUX, 20 runs a seed of 10 models and 300 questions out of 51 and 800",
        budget="the same questions and prior for all; the demonstrations come on top",
        contenders={
            "informed": ("20 choices of an expert of competence 10, weighed as such", _regret(10.0, 10.0)),
            "plain": ("Thompson sampling without demonstrations", _regret(10.0, None)),
            "by lot": ("20 choices by lot, weighed as an expert's of competence 10", _regret(0.0, 10.0)),
            "expert": ("control: 20 choices of an expert of competence 100, weighed as such", _regret(100.0, 100.0)),
        },
        pairs=Pairs("informed", "plain", "by lot", "expert", "plain"),
        statistic=Statistic("regret after 300 questions", "lower", 1.0),
    ),
)
