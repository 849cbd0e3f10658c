"""Active ranking: who is how good, when whoever is better is better everywhere, from few noisy evaluations.

Equation: `one` before `other` once |mean difference on the tasks kept| > sqrt(4 s^2 log(2 / delta') / evaluations).
Shapes: evaluations of an expert on tasks [Q]; the answer is a permutation of the experts.
Trains: nothing that lasts.
Siblings: `banditeval` finds the best without assuming an order, and never says how sure it is.
Source: Saad, Verzelen, Carpentier, 2023, "Active Ranking of Experts Based on their Performances in Many Tasks",
    arXiv:2306.02628.
Differences: inserting by binary search and the champion are the source's; how two experts are compared is recalled
    from the paper, not compared with it. Every step of the halving tests its own fresh
    evaluations, where the source tests at the end of a round; constants are those of a plain union bound. Experts that
    are equal on every task are a tie once a comparison has spent its budget. Where experts differ by the same on every
    task, uniform sampling is the cheaper way: in the check, by a factor of five.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from roster.lm.online.ranking import Evaluate, Ranking, rank
from roster.recipes.recipe import Recipe


def active_ranking(delta: float = 0.1, noise: float = 0.5) -> Callable[..., tuple[tuple[int, ...], Ranking]]:
    """`(evaluate, experts, tasks, **more) -> (order from best to worst, the ranking with its counts)`.

    Args:
        delta: how probable a wrong order may be.
        noise: deviation of an evaluation; 0.5 covers every score between 0 and 1.
    """

    def run(evaluate: Evaluate, experts: int, tasks: int, **more: Any) -> tuple[tuple[int, ...], Ranking]:
        ranking = Ranking(evaluate, tasks, noise, **more)
        return rank(ranking, experts, delta), ranking

    return run


RECIPE = Recipe(
    slug="active-ranking-experts",
    title="Active ranking of experts",
    source="Saad, Verzelen, Carpentier, 2023, Active Ranking of Experts Based on their Performances in Many Tasks, "
    "arXiv:2306.02628",
    compose=active_ranking,
    trains="nothing",
    batch_invariant=True,
    claim="The order is wrong in at most a share delta of the runs, and costs fewer evaluations than uniform sampling "
    "where experts differ on some tasks only, most of all where on few.",
    evidence="docs/results/claims.md",
    kind="study",
)
