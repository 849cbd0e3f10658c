"""BanditEval: which model is the best, from as few (model, example) scores as possible.

A method's upper bound is its mean over all examples plus c / sqrt(examples seen), and the next cell is one of
the method with the largest bound. UCB-E takes the mean over what was seen, and a random unseen example. UCB-E-LRF
fills the unseen cells with the mean of an ensemble of rank-1 factorisations, each fitted to a bootstrap of the seen
cells; the bound is the mean of seen and filled cells plus c times the mean deviation of the ensemble over the method's
unseen cells; the cell taken is the method's unseen example on which the ensemble disagrees most. Cells come in batches.

Source: Zhou, Belardi, Wu, Zhang, Gomes, Sun, Weinberger, 2024, arXiv:2407.06172.
Shape legend: M methods, N examples, E members of the ensemble.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roster.errors import RosterError
from roster.lm.records import Matrix

Seen = NDArray[np.bool_]
Score = Callable[[int, int], float]
"""The score of a method (first) on an example (second); called once per cell."""


@dataclass(frozen=True)
class Found:
    """What an evaluation found.

    Attributes:
        best: the method held to be the best.
        mean_M: the mean expected of every method over all examples.
        seen_MN: the cells that were paid for.
        path: (cells paid for, best method at that time) after every batch.
    """

    best: int
    mean_M: Matrix
    seen_MN: Seen
    path: tuple[tuple[int, int], ...]


class Uniform:
    """The next cells are random ones; a method's mean is that of its seen cells.

    Attributes:
        first: so many random cells of every method come before everything else.
    """

    first = 2

    def mean(self, score_MN: Matrix, seen_MN: Seen, rng: np.random.Generator) -> Matrix:
        """Expected mean of every method; 0 where nothing was seen."""
        mean_M: Matrix = np.where(seen_MN, score_MN, 0).sum(1) / np.maximum(seen_MN.sum(1), 1)
        return mean_M

    def batch(self, score_MN: Matrix, seen_MN: Seen, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """`count` unseen cells, as positions in the flattened matrix."""
        return rng.choice(np.flatnonzero(~seen_MN), count, replace=False)


class UCBE(Uniform):
    """UCB-E.

    Args:
        caution: c.
    """

    def __init__(self, caution: float = 0.5):
        self.caution = caution

    def batch(self, score_MN: Matrix, seen_MN: Seen, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Random examples of the methods with the largest bounds; a bound falls with every cell that is given."""
        mean_M, seen_MN = self.mean(score_MN, seen_MN, rng), seen_MN.copy()
        cells = []
        for _ in range(count):
            bound_M = mean_M + self.caution / np.sqrt(np.maximum(seen_MN.sum(1), 1e-9))
            m = int(np.where(seen_MN.all(1), -np.inf, bound_M).argmax())
            n = int(rng.choice(np.flatnonzero(~seen_MN[m])))
            seen_MN[m, n] = True
            cells.append(m * seen_MN.shape[1] + n)
        return np.array(cells)


class LowRank(Uniform):
    """UCB-E-LRF.

    Args:
        caution: c, in mean deviations of the ensemble.
        members: E.
        rounds: of alternating least squares.
        first: random cells of every method before the factorisations are trusted.
    """

    def __init__(self, caution: float = 1.0, members: int = 6, rounds: int = 3, first: int = 5):
        self.caution, self.members, self.rounds, self.first = caution, members, rounds, first

    def mean(self, score_MN: Matrix, seen_MN: Seen, rng: np.random.Generator) -> Matrix:
        """Mean of seen cells and of what the ensemble expects of the others."""
        mean_M: Matrix = np.where(seen_MN, score_MN, self._ensemble(score_MN, seen_MN, rng).mean(0)).mean(1)
        return mean_M

    def batch(self, score_MN: Matrix, seen_MN: Seen, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """The most doubtful unseen cells of the method with the largest bound, then of the next one."""
        guess_EMN = self._ensemble(score_MN, seen_MN, rng)
        doubt_MN = np.where(seen_MN, 0.0, guess_EMN.std(0))
        mean_M = np.where(seen_MN, score_MN, guess_EMN.mean(0)).mean(1)
        order_M = np.argsort(-(mean_M + self.caution * doubt_MN.mean(1)), kind="stable")
        cells: list[int] = []
        for m in order_M:
            unseen = np.flatnonzero(~seen_MN[m])
            doubtful = unseen[np.argsort(-doubt_MN[m, unseen], kind="stable")]
            cells += (m * seen_MN.shape[1] + doubtful[: count - len(cells)]).tolist()
            if len(cells) == count:
                break
        return np.array(cells)

    def _ensemble(self, score_MN: Matrix, seen_MN: Seen, rng: np.random.Generator) -> Matrix:
        """What E rank-1 factorisations, each of a bootstrap of the seen cells, say of every cell, [E, M, N]."""
        value_MN = np.where(seen_MN, score_MN, 0.0)
        guesses = [
            _rank_one(value_MN, seen_MN * rng.poisson(1.0, seen_MN.shape).astype(float), self.rounds)
            for _ in range(self.members)
        ]
        return np.stack(guesses)


def _rank_one(value_MN: Matrix, weight_MN: Matrix, rounds: int, ridge: float = 1.0) -> Matrix:
    """u v' in [0, 1] by alternating weighted ridge regressions towards the overall level, [M, N]."""
    level = float((weight_MN * value_MN).sum() / max(weight_MN.sum(), 1))
    middle = max(level, 1e-3) ** 0.5
    u_M, v_N = np.full(len(value_MN), middle), np.full(value_MN.shape[1], middle)
    gained_MN = weight_MN * value_MN
    for _ in range(rounds):
        u_M = (gained_MN @ v_N + ridge * middle) / (weight_MN @ v_N**2 + ridge)
        v_N = (u_M @ gained_MN + ridge * middle) / (u_M**2 @ weight_MN + ridge)
    return np.outer(u_M, v_N).clip(0, 1)


def evaluate(
    plan: Uniform, score: Score, methods: int, examples: int, budget: int, batch: int = 32, seed: int = 0
) -> Found:
    """Spends a budget of scores on finding the best method.

    Args:
        plan: which cells come next.
        score: called for every cell that is paid for.
        methods, examples: M, N.
        budget: cells; the first ones of every method are random: as many as the plan wants.
        batch: cells between two decisions.
        seed: of all draws.

    Raises:
        RosterError: the budget is less than these first cells, or more than there are.
    """
    if not plan.first * methods <= budget <= methods * examples or examples < plan.first:
        raise RosterError(f"a budget of {budget} cells for {methods} methods and {examples} examples cannot be spent")
    rng = np.random.default_rng(seed)
    score_MN, seen_MN = np.full((methods, examples), np.nan), np.zeros((methods, examples), dtype=bool)
    cells = np.concatenate([m * examples + rng.choice(examples, plan.first, replace=False) for m in range(methods)])
    path = []
    while True:
        for cell in cells:
            m, n = divmod(int(cell), examples)
            score_MN[m, n], seen_MN[m, n] = score(m, n), True
        mean_M = plan.mean(score_MN, seen_MN, rng)
        path.append((int(seen_MN.sum()), int(mean_M.argmax())))
        left = budget - path[-1][0]
        if not left:
            return Found(path[-1][1], mean_M, seen_MN, tuple(path))
        cells = plan.batch(score_MN, seen_MN, min(batch, left), rng)
