"""Informed Thompson sampling: regret falls with the competence of the demonstrations, and is plain at zero.

Recorded answers (ZeroEval CRUX): ten of 51 models are the arms, questions come one by one, a gain is whether the chosen
model's recorded answer was right, and regret is against the best of the ten on all questions. An expert chose 20 times
with chances softmax(competence x true accuracy). Once the learner knows the competence, once it believes in one of 30
where the truth is 0 or 3. Means over 40 runs of 300 questions.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np

from roster.lm import data
from roster.lm.online import replay
from roster.lm.online.informed import InformedThompson
from roster.lm.records import Matrix

COMPETENCES = (0.0, 3.0, 10.0, 30.0)
BARELY = 1e-6
"""So near to zero that the demonstrations say nothing, and not zero, so that they are weighed all the same."""
RUNS, STEPS, ARMS, DEMONSTRATIONS = 40, 300, 10, 20


def check(seed: int) -> dict[str, float]:
    """Mean regret after 300 questions."""
    figures = {"plain Thompson sampling": _regret(seed, 0.0, None), "uniform": _uniform(seed)}
    for competence in COMPETENCES:
        figures[f"competence {competence:g}"] = _regret(seed, competence, max(competence, BARELY))
    for competence in (0.0, 3.0):
        figures[f"competence {competence:g}, believed 30"] = _regret(seed, competence, 30.0)
    return figures


def shown(figures: list[dict[str, float]]) -> bool:
    """In the mean over seeds, regret falls at every step of competence, at zero is within 5 % of plain Thompson
    sampling's, and no wrong belief costs more than choosing uniformly."""
    mean = {name: float(np.mean([each[name] for each in figures])) for name in figures[0]}
    known = [mean[f"competence {each:g}"] for each in COMPETENCES]
    return (
        all(more < less for less, more in pairwise(known))
        and abs(known[0] / mean["plain Thompson sampling"] - 1) < 0.05
        and max(mean["competence 0, believed 30"], mean["competence 3, believed 30"]) < mean["uniform"]
    )


@cache
def _scores() -> Matrix:
    score_NM = data.load("zeroeval-crux", texts=False).score_NM
    return score_NM[np.isfinite(score_NM).all(1)]


def _draw(seed: int, run: int) -> tuple[Matrix, Matrix, np.random.Generator]:
    """(gains of ten arms over the questions of one run, their true means, dice); the same for every learner."""
    rng = np.random.default_rng([seed, run])
    arms = rng.choice(_scores().shape[1], ARMS, replace=False)
    score_NM = _scores()[:, arms]
    return score_NM[rng.permutation(len(score_NM))[:STEPS]], score_NM.mean(0), rng


def _regret(seed: int, competence: float, believed: float | None) -> float:
    regrets = []
    accuracy_M = _scores().mean(0)
    names = tuple(map(str, range(ARMS)))
    for run in range(RUNS):
        gain_NM, mean_M, rng = _draw(seed, run)
        chance_M = np.exp(competence * (mean_M - mean_M.max()))
        shown_J = rng.choice(ARMS, DEMONSTRATIONS, p=chance_M / chance_M.sum())
        prior = (float(accuracy_M.mean()), float(accuracy_M.std()))
        demonstrations = () if believed is None else tuple(names[a] for a in shown_J)
        learner = InformedThompson(names, demonstrations, believed or 0.0, prior, seed=1000 * seed + run)
        played = replay(learner, np.zeros((STEPS, 1)), gain_NM)
        regrets.append((mean_M.max() - mean_M[played.choice_N]).sum())
    return float(np.mean(regrets))


def _uniform(seed: int) -> float:
    means = [_draw(seed, run)[1] for run in range(RUNS)]
    return float(STEPS * np.mean([mean_M.max() - mean_M.mean() for mean_M in means]))
