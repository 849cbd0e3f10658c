"""Best effort: the model that serves a request is chosen by quality, chance to be in time, and what its time costs now.

    model = argmax_m  quality_m(x) P(wait_m + seconds_m(x) <= deadline)^caution
                      - price(load) (1 + crowd count_m) seconds_m(x)

The price of a second of service rises with the load, linearly between knots on the logarithm of the arrival rate of
the last requests. Prices, caution and crowd are learned by policy search: simulated traces at several loads, the
quality of the answers that were in time as the gain. Waits are guessed from what a gateway knows: how many requests
are at each model.

Source: Jha, Hooper, Liu, Kim, Keutzer, 2024, arXiv:2401.07886.
Shape legend: N requests, M models, K knots, P coefficients.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roster.errors import RosterError
from roster.lm.load.arrivals import poisson
from roster.lm.load.queue import Load, Scheduler, Served, serve
from roster.lm.load.search import cross_entropy
from roster.lm.records import Matrix

MEMORY = 20
"""Requests over which the arrival rate is taken."""


@dataclass(frozen=True)
class Expected:
    """What is expected of M models on N requests before they are served.

    Attributes:
        quality_NM: score of the answer.
        seconds_NM: of service.
        spread_M: standard deviation of the logarithm of the true seconds around the expected ones.
    """

    quality_NM: Matrix
    seconds_NM: Matrix
    spread_M: Matrix

    def rows(self, at: NDArray[np.int64]) -> Expected:
        """The expectations for some of the requests."""
        return Expected(self.quality_NM[at], self.seconds_NM[at], self.spread_M)


class BestEffort:
    """The policy; before `fit` seconds are free, so it takes the best model that is likely in time.

    Args:
        deadline: seconds from arrival to the complete answer; a later one is worth nothing.
        rates: K arrival rates a second, rising: the loads to train at and the knots of the price.

    Raises:
        RosterError: a deadline that is not above 0, or rates that do not rise.
    """

    def __init__(self, deadline: float, rates: Sequence[float]):
        if not deadline > 0:
            raise RosterError(f"a deadline must be above 0 seconds, not {deadline:g}")
        if not len(rates) or min(rates) <= 0 or (np.diff(rates) <= 0).any():
            raise RosterError("the rates to train at must be above 0 and rise")
        self.deadline, self.rates = deadline, tuple(rates)
        self.price_K, self.caution, self.crowd = np.zeros(len(rates)), 1.0, 0.0

    def fit(
        self,
        expected: Expected,
        score_NM: Matrix,
        seconds_NM: Matrix,
        requests: int = 200,
        rounds: int = 12,
        points: int = 20,
        seed: int = 0,
    ) -> BestEffort:
        """Policy search on traces drawn from the requests given.

        Args:
            expected: what the policy is told of each.
            score_NM, seconds_NM: what was recorded of each.
            requests: in a trace; every round has one per rate.
            rounds, points: of the search.
            seed: of traces and search.
        """
        drawn: dict[int, list[tuple[NDArray[np.int64], Matrix]]] = {}

        def traces(n: int) -> list[tuple[NDArray[np.int64], Matrix]]:
            if n not in drawn:
                rng = np.random.default_rng([seed, n])
                drawn[n] = [
                    (rng.integers(len(score_NM), size=requests), poisson(requests, rate, rng)) for rate in self.rates
                ]
            return drawn[n]

        def loss(point_P: Matrix, n: int) -> float:
            self._take(point_P)
            gains = []
            for at, arrival_N in traces(n):
                served = self.serve(arrival_N, expected.rows(at), seconds_NM[at])
                gains.append(gain(served, score_NM[at], self.deadline).mean())
            return -float(np.mean(gains))

        # Exponents: the increments of the price begin near 0.003 of quality a second, caution at 1, crowd at 0.1.
        start_P = np.append(np.full(len(self.rates), -6.0), [0.0, -2.0])
        spread_P = np.append(np.full(len(self.rates), 1.5), [0.5, 1.0])
        self._take(cross_entropy(loss, start_P, spread_P, rounds, points, max(points // 4, 1), seed))
        return self

    def serve(self, arrival_N: Matrix, expected: Expected, seconds_NM: Matrix) -> Served:
        """Plays a trace."""
        return serve(arrival_N, seconds_NM, self.scheduler(arrival_N, expected))

    def scheduler(self, arrival_N: Matrix, expected: Expected) -> Scheduler:
        """The policy for a trace; of the arrivals it reads those that have been."""
        mean_M = expected.seconds_NM.mean(0)

        def schedule(n: int, load: Load) -> int:
            # The gap since the last arrival counts, so the first request has none: the lowest load.
            seen = arrival_N[max(0, n - MEMORY) : n + 1]
            gap = (seen[-1] - seen[0]) / max(len(seen) - 1, 1)
            # The request in service is half done on average.
            wait_M = np.maximum(load.count_M - 0.5, 0.0) * mean_M
            worth_M = self.worth(expected.rows(np.array([n])), load.count_M.astype(float), wait_M, gap)
            return int(np.argmax(worth_M))

        return schedule

    def worth(self, expected: Expected, count_M: Matrix, wait_M: Matrix, gap: float) -> Matrix:
        """What each model is worth to one request, [M].

        Args:
            expected: of the request, N = 1.
            count_M: requests at every model.
            wait_M: seconds until it would be begun there.
            gap: mean seconds between the last arrivals; 0 where there was none, the lowest load.
        """
        knot_K, seconds_M = np.log(self.rates), expected.seconds_NM[0]
        price = float(np.interp(math.log(1 / gap) if gap > 0 else knot_K[0], knot_K, self.price_K))
        chance_M = self._in_time(self.deadline - wait_M, seconds_M, expected.spread_M)
        cost_M = price * (1 + self.crowd * count_M) * seconds_M
        worth_M: Matrix = expected.quality_NM[0] * chance_M**self.caution - cost_M
        return worth_M

    @staticmethod
    def _in_time(left_M: Matrix, seconds_M: Matrix, spread_M: Matrix) -> Matrix:
        """P(seconds of service <= those left), log-normal with the expected seconds as the mean."""
        chances = []
        for left, seconds, spread in zip(left_M, seconds_M, spread_M, strict=True):
            if left <= 0:
                chances.append(0.0)
                continue
            z = (math.log(left / seconds) + spread**2 / 2) / max(spread, 1e-9)
            chances.append(0.5 * (1 + math.erf(z / math.sqrt(2))))
        return np.array(chances)

    def _take(self, point_P: Matrix) -> None:
        # Exponents keep increments positive: the price never falls with the load.
        self.price_K = np.cumsum(np.exp(point_P[:-2]))
        self.caution, self.crowd = float(np.exp(point_P[-2])), float(np.exp(point_P[-1]))


def gain(served: Served, score_NM: Matrix, deadline: float) -> Matrix:
    """The quality [N] of every answer, 0 for those after the deadline."""
    score_N = score_NM[np.arange(len(score_NM)), served.server_N]
    return np.where(served.delay_N <= deadline, score_N, 0.0)
