"""Active ranking: wrong in at most delta of the runs, with fewer evaluations than uniform sampling.

Simulated: 6 experts, 64 tasks, evaluations with normal noise of deviation 0.5, delta = 0.1. The experts' order is
random; neighbours in it differ by 0.25 on every task ("dense"), by 0.5 on 16 random tasks, or by 1 on one random task
("sparse"), and not at all on the others. Uniform sampling compares by the same tests over the same rounds, pooling all
evaluations of random tasks. 40 runs per seed, so 200 in all; errors are shares of runs with a wrong order.
Dense gaps are there for the errors and to show the price: no task tells more than another, so uniform sampling is the
better way, and the rule does not ask otherwise.
"""

from __future__ import annotations

import numpy as np

from roster.lm.online.ranking import Evaluate, Ranking, best, rank
from roster.lm.records import Matrix

EXPERTS, TASKS, NOISE, DELTA, RUNS = 6, 64, 0.5, 0.1, 40
GAPS = {"dense": (64, 0.25), "medium": (16, 0.5), "sparse": (1, 1.0)}
"""(tasks on which neighbours differ, by how much)"""


def check(seed: int) -> dict[str, float]:
    """Errors and evaluations of both ways, by kind of gap."""
    figures = {}
    for name, (tasks, gap) in GAPS.items():
        runs = [_run(tasks, gap, seed, run) for run in range(RUNS)]
        for column, figure in enumerate(runs[0]):
            figures[f"{name}: {figure}"] = float(np.mean([list(each.values())[column] for each in runs]))
    return figures


def shown(figures: list[dict[str, float]]) -> bool:
    """Over all runs no error exceeds delta; active ranking needs fewer evaluations than uniform sampling in every
    seed where gaps are medium or sparse, and its advantage is largest where they are sparse."""
    mean = {name: float(np.mean([each[name] for each in figures])) for name in figures[0]}
    saved = {name: mean[f"{name}: evaluations, uniform"] / mean[f"{name}: evaluations, active"] for name in GAPS}
    return (
        all(mean[name] <= DELTA for name in mean if "wrong" in name)
        and all(
            each[f"{name}: evaluations, active"] < each[f"{name}: evaluations, uniform"]
            for each in figures
            for name in ("medium", "sparse")
        )
        and saved["sparse"] > max(saved["medium"], saved["dense"])
    )


def _run(tasks: int, gap: float, seed: int, run: int) -> dict[str, float]:
    rng = np.random.default_rng([seed, run])
    level_MN = np.zeros((EXPERTS, TASKS))
    for place in range(1, EXPERTS):
        level_MN[place:, rng.choice(TASKS, tasks, replace=False)] -= gap
    name_M = rng.permutation(EXPERTS)  # the expert at each place
    truth = tuple(name_M.tolist())
    found = {}
    for way, halving in (("active", True), ("uniform", False)):
        ranking = Ranking(_noisy(level_MN[np.argsort(name_M)], rng), TASKS, NOISE, halving=halving, seed=run)
        found[f"order wrong, {way}"] = float(rank(ranking, EXPERTS, DELTA) != truth)
        found[f"evaluations, {way}"] = float(ranking.evaluations)
    ranking = Ranking(_noisy(level_MN[np.argsort(name_M)], rng), TASKS, NOISE, seed=run)
    return found | {"best wrong, active": float(best(ranking, EXPERTS, DELTA) != truth[0])}


def _noisy(level_MN: Matrix, rng: np.random.Generator) -> Evaluate:
    return lambda m, task_Q: level_MN[m, task_Q] + NOISE * rng.standard_normal(len(task_Q))
