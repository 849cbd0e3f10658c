"""Cross-entropy method: policy search over a few coefficients by nothing but the loss that a simulation gives.

Points are drawn from a normal distribution, independent per coefficient; the best fifth or so gives the next mean and
deviations. Every round may score its points on fresh traces, the same for all points of the round.

Source: Rubinstein, 1999, "The Cross-Entropy Method for Combinatorial and Continuous Optimization"; for learning
policies: Mannor, Rubinstein, Gat, 2003. Shape legend: P coefficients, S points of a round.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from roster.errors import RosterError
from roster.lm.records import Matrix

Loss = Callable[[Matrix, int], float]
"""What a point [P] loses on the traces of a round (by its number); less is better."""


def cross_entropy(
    loss: Loss,
    start_P: Matrix,
    spread_P: Matrix,
    rounds: int = 10,
    points: int = 20,
    elite: int = 5,
    seed: int = 0,
) -> Matrix:
    """The mean [P] of the last round's best points.

    Args:
        loss: to be made small.
        start_P: the first mean: what is believed before anything was tried.
        spread_P: the first deviations; 0 keeps a coefficient as it is.
        rounds, points: how many, and S.
        elite: how many points of a round give the next mean; the present mean is always among the points.
        seed: of the draws.

    Raises:
        RosterError: an elite that is empty or larger than a round.
    """
    if not 1 <= elite <= points:
        raise RosterError(f"the elite of a round of {points} points must have between 1 and {points}, not {elite}")
    rng = np.random.default_rng(seed)
    mean_P, spread_P = np.array(start_P, dtype=float), np.array(spread_P, dtype=float)
    first_P = spread_P.copy()
    for n in range(rounds):
        drawn_SP = rng.normal(mean_P, spread_P, (points, len(mean_P)))
        drawn_SP[0] = mean_P
        best_S = np.argsort([loss(point_P, n) for point_P in drawn_SP], kind="stable")[:elite]
        mean_P = drawn_SP[best_S].mean(0)
        # A floor that falls: an elite of a few points would else freeze the search in its first rounds.
        spread_P = np.maximum(drawn_SP[best_S].std(0), first_P * 0.3 * (1 - (n + 1) / rounds))
    return mean_P
