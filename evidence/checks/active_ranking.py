"""Active ranking's claim: where experts differ on few tasks, it needs fewer evaluations than uniform sampling.

Six experts, 64 tasks, normal noise of deviation 0.5, delta = 0.1; neighbours in the order differ by 1 on one random
task. That it is wrong in at most delta of the runs is a test, not a claim. Where experts differ on all tasks alike,
uniform sampling is the better way, and the source says no other.
"""

from __future__ import annotations

import math

import numpy as np

from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.lm.online.ranking import Evaluate, Ranking, rank
from roster.lm.records import Matrix

EXPERTS, TASKS, NOISE, DELTA, RUNS = 6, 64, 0.5, 0.1, 10


def _evaluations(tasks: int, gap: float, halving: bool, noise: float = NOISE) -> Contender:
    """Logarithm of the mean number of evaluations until the order is found."""

    def run(draw: Draw) -> float:
        asked = []
        for number in range(1 if draw.short else RUNS):
            rng = np.random.default_rng([draw.ground, number])
            level_MN = np.zeros((EXPERTS, TASKS))
            for place in range(1, EXPERTS):
                level_MN[place:, rng.choice(TASKS, tasks, replace=False)] -= gap
            level_MN = level_MN[rng.permutation(EXPERTS)]
            dice = np.random.default_rng([draw.luck, number, 1])
            seed = draw.luck * RUNS + number
            ranking = Ranking(_noisy(level_MN, noise, dice), TASKS, noise, halving=halving, seed=seed)
            rank(ranking, EXPERTS, DELTA)
            asked.append(ranking.evaluations)
        return math.log(float(np.mean(asked)))

    return run


def _noisy(level_MN: Matrix, noise: float, rng: np.random.Generator) -> Evaluate:
    return lambda m, task_Q: level_MN[m, task_Q] + noise * rng.standard_normal(len(task_Q))


CHECKS = (
    make_check(
        slug="active-ranking-experts",
        version=1,
        claim="Where experts differ on few tasks, active ranking needs fewer evaluations than uniform sampling.",
        ground="simulated: 6 experts, 64 tasks, neighbours differ by 1 on one task, noise 0.5; 10 runs a seed",
        budget="the same tests and the same risk of a wrong order, 0.1",
        contenders={
            "active": ("tasks that tell less are halved away", _evaluations(1, 1.0, halving=True)),
            "uniform": ("random tasks, all pooled: without the halving", _evaluations(1, 1.0, halving=False)),
            "quiet": ("control: uniform with half the noise", _evaluations(1, 1.0, halving=False, noise=NOISE / 2)),
        },
        pairs=Pairs("active", "uniform", "uniform", "quiet", "uniform"),
        statistic=Statistic("logarithm of the evaluations until the order is found", "lower", 0.1),
    ),
)
