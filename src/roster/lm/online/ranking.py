"""Active ranking: the order of experts that differ on many tasks, from as few noisy evaluations as possible.

Monotone performance: of any two experts one is at least as good on every task. Two experts are then told apart by any
set of tasks on which their differences do not vanish, and the larger these are, the cheaper. A comparison goes in
rounds, each with twice the evaluations of the one before it. A round draws tasks, evaluates both experts on all of
them, keeps the half with the largest observed differences, evaluates these afresh, and so on down to one task: a few
large differences among many are found by halving, many small ones by the first means. Every step's own evaluations
test the sign of the mean difference of its tasks, so what was chosen before cannot bias it. The steps of round t share
the confidence delta / (t (t + 1)), which sums to delta.

Ranking inserts one expert after the other by binary search; the best one is found by a champion against each other.

Source: Saad, Verzelen, Carpentier, 2023, arXiv:2306.02628. Shape legend: M experts, N tasks, S tasks of a step,
Q evaluations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from roster.errors import RosterError
from roster.lm.records import Matrix

Evaluate = Callable[[int, NDArray[np.int64]], Matrix]
"""Noisy scores [Q] of an expert (first) on tasks [Q] (second), every one a fresh evaluation."""


@dataclass
class Ranking:
    """Compares, ranks, and counts what it costs.

    Attributes:
        evaluate: see `Evaluate`.
        tasks: N.
        noise: sub-Gaussian deviation of an evaluation; 0.5 covers every score between 0 and 1.
        budget: evaluations that one comparison may cost before it is given up as a tie.
        halving: whether tasks are halved; without, all evaluations of all rounds go to random tasks.
        seed: of the draws of tasks.
        evaluations: spent so far.
        ties: comparisons that were given up, as (expert, expert).
    """

    evaluate: Evaluate
    tasks: int
    noise: float = 0.5
    budget: int = 10_000_000
    halving: bool = True
    seed: int = 0
    evaluations: int = field(default=0, init=False)
    ties: list[tuple[int, int]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        if self.tasks < 1 or not self.noise > 0:
            raise RosterError(f"a ranking needs tasks and a noise above 0, not {self.tasks} and {self.noise}")
        self._rng = np.random.default_rng(self.seed)

    def better(self, one: int, other: int, delta: float) -> bool:
        """Whether `one` is better than `other`, wrong with probability at most delta; of a tie, the first is."""
        before, first, turn = self.evaluations, 8, 1
        total, count = 0.0, 0
        while self.evaluations - before < self.budget:
            pairs, confidence = first * 2**turn, delta / (turn * (turn + 1))
            if self.halving:
                sign = self._halve(one, other, pairs, confidence)
            else:
                difference_Q = self._differences(one, other, self._rng.integers(self.tasks, size=pairs))
                total, count = total + float(difference_Q.sum()), count + pairs
                sign = self._sign(total / count, count, confidence)
            if sign:
                return sign > 0
            turn += 1
        self.ties.append((one, other))
        return True

    def _halve(self, one: int, other: int, pairs: int, confidence: float) -> int:
        """One round: 1 or -1 for a sign that is certain, 0 for none."""
        steps = int(math.log2(min(self.tasks, pairs))) + 1
        steps = max(step for step in range(1, steps + 1) if step * 2 ** (step - 1) <= max(pairs, 1))
        task_S = self._rng.permutation(self.tasks)[: 2 ** (steps - 1)]
        for _ in range(steps):
            repeats = max(1, pairs // (steps * len(task_S)))
            mean_S = self._differences(one, other, task_S.repeat(repeats)).reshape(-1, repeats).mean(1)
            sign = self._sign(float(mean_S.mean()), repeats * len(task_S), confidence / steps)
            if sign:
                return sign
            task_S = task_S[np.argsort(-np.abs(mean_S), kind="stable")[: max(1, len(task_S) // 2)]]
        return 0

    def _differences(self, one: int, other: int, task_Q: NDArray[np.int64]) -> Matrix:
        self.evaluations += 2 * len(task_Q)
        return np.asarray(self.evaluate(one, task_Q)) - np.asarray(self.evaluate(other, task_Q))

    def _sign(self, mean: float, count: int, confidence: float) -> int:
        # A difference of two evaluations has twice the variance of one.
        bound = math.sqrt(4 * self.noise**2 * math.log(2 / confidence) / count)
        return int(mean > bound) - int(mean < -bound)


def rank(ranking: Ranking, experts: int, delta: float) -> tuple[int, ...]:
    """The experts from best to worst, all in order with probability at least 1 - delta.

    Raises:
        RosterError: fewer than one expert, or a delta outside (0, 1).
    """
    _check(experts, delta)
    steps = sum(math.ceil(math.log2(placed + 1)) for placed in range(1, experts))
    order = [0]
    for new in range(1, experts):
        low, high = 0, len(order)
        while low < high:
            middle = (low + high) // 2
            if ranking.better(new, order[middle], delta / steps):
                high = middle
            else:
                low = middle + 1
        order.insert(low, new)
    return tuple(order)


def best(ranking: Ranking, experts: int, delta: float) -> int:
    """The best expert, with probability at least 1 - delta.

    Raises:
        RosterError: as `rank`.
    """
    _check(experts, delta)
    champion = 0
    for challenger in range(1, experts):
        if ranking.better(challenger, champion, delta / (experts - 1)):
            champion = challenger
    return champion


def _check(experts: int, delta: float) -> None:
    if experts < 1 or not 0 < delta < 1:
        raise RosterError(f"a ranking needs experts and a delta between 0 and 1, not {experts} and {delta}")
