"""BanditEval: the best model is found with far fewer scores than by scoring random cells.

Recorded answers (ZeroEval CRUX, 51 models x 800 questions; in every run 25 models and 300 questions drawn at random): a
plan has found the best when its model is within one point of the best accuracy on the run's questions. Of each plan:
the share of 12 runs in which that is so at 5, 10, 20 and 40 % of all cells, and the least of these shares of cells from
which on at least 80 % of the runs succeed (1.0 where none does).
"""

from __future__ import annotations

from functools import cache

import numpy as np

from roster.lm import data
from roster.lm.online.cells import UCBE, LowRank, Uniform, evaluate
from roster.lm.records import Matrix

SHARES = (0.05, 0.1, 0.2, 0.4)
RUNS, METHODS, EXAMPLES, CLOSE, WANTED = 12, 25, 300, 0.01, 0.8
PLANS = {"uniform": Uniform(), "UCB-E": UCBE(), "UCB-E-LRF": LowRank()}


def check(seed: int) -> dict[str, float]:
    """Success of the three plans by share of cells."""
    figures = {}
    for name, plan in PLANS.items():
        share_S = np.mean([_run(plan, seed, run) for run in range(RUNS)], axis=0)
        for share, success in zip(SHARES, share_S, strict=True):
            figures[f"{name}: success at {share:.0%}"] = float(success)
        enough = [share for n, share in enumerate(SHARES) if (share_S[n:] >= WANTED).all()]
        figures[f"{name}: share of cells for {WANTED:.0%}"] = min(enough, default=1.0)
    return figures


def shown(figures: list[dict[str, float]]) -> bool:
    """In the mean over seeds, UCB-E-LRF needs at most 15 % of the cells, and at most half of what the uniform plan
    needs."""
    mean = {name: float(np.mean([each[name] for each in figures])) for name in figures[0]}
    needs = f"share of cells for {WANTED:.0%}"
    return mean[f"UCB-E-LRF: {needs}"] <= min(0.15, 0.5 * mean[f"uniform: {needs}"])


@cache
def _scores() -> Matrix:
    score_NM = data.load("zeroeval-crux", texts=False).score_NM
    return score_NM[np.isfinite(score_NM).all(1)].T


def _run(plan: Uniform, seed: int, run: int) -> list[bool]:
    """Whether the best was found, at each share of the cells."""
    rng = np.random.default_rng([seed, run])
    score_MN = _scores()[rng.choice(len(_scores()), METHODS, replace=False)]
    score_MN = score_MN[:, rng.choice(score_MN.shape[1], EXAMPLES, replace=False)]
    mean_M = score_MN.mean(1)
    budgets = [round(share * score_MN.size) for share in SHARES]
    found = evaluate(plan, lambda m, n: score_MN[m, n], *score_MN.shape, budget=budgets[-1], seed=seed * RUNS + run)
    best_S = [[best for spent, best in found.path if spent <= budget][-1] for budget in budgets]
    return [bool(mean_M[best] >= mean_M.max() - CLOSE) for best in best_S]
