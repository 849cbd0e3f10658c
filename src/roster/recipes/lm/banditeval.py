"""BanditEval: find the best model from a few per cent of the (model, example) scores.

Equation: next method = argmax_m  mean_m + c bound_m, its mean filled in by rank-1 factorisations of the seen scores.
Shapes: scores [methods, examples], most of them never paid for.
Trains: nothing that lasts; the factorisations are refitted after every batch of scores.
Siblings: `lm-factorisation` fills a matrix too, to route prompts; here it decides what to measure next.
Source: Zhou, Belardi, Wu, Zhang, Gomes, Sun, Weinberger, 2024, "On Speeding Up Language Model Evaluation",
    arXiv:2407.06172.
Differences: the ensemble is of Poisson bootstraps fitted by alternating ridge regressions towards the overall level.
    The sizes of the bounds, of the batches and of the random start are our own. On the
    recorded answers of the check, UCB-E without the factorisation does as well.
"""

from __future__ import annotations

from collections.abc import Callable

from roster.lm.online.cells import Found, LowRank, Score, evaluate
from roster.recipes.recipe import Recipe


def banditeval(caution: float = 1.0, members: int = 6, batch: int = 32) -> Callable[..., Found]:
    """`(score, methods, examples, budget, seed=0) -> Found`, with `score(method, example)` called once per cell.

    Args:
        caution: how many deviations of the ensemble a method's bound lies above its mean.
        members: of the ensemble.
        batch: scores between two decisions.
    """
    plan = LowRank(caution, members)

    def run(score: Score, methods: int, examples: int, budget: int, seed: int = 0) -> Found:
        return evaluate(plan, score, methods, examples, budget, batch, seed)

    return run


RECIPE = Recipe(
    slug="banditeval",
    title="BanditEval (UCB-E with low-rank factorisation)",
    source="Zhou et al., 2024, On Speeding Up Language Model Evaluation, arXiv:2407.06172",
    compose=banditeval,
    trains="nothing",
    batch_invariant=True,
    claim="The best model is found with 5 to 15 % of the scores that are typically needed.",
    evidence="docs/results/claims.md",
    kind="study",
)
