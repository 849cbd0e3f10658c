"""Workload-aware routing among instances of one model: a linear score, learned from a latency model as its start.

For a request and an instance, a latency model gives seconds that the assignment would add (to the request and to all
others there): reading queues, stalls of running answers by the prompt that is read, slower iterations for as many
tokens as answers overlap, waiting for memory. The weights of these start at 1 (the sum: the heuristic) and at 0 for
what the model cannot see, the instance's fullness; policy search moves them to what makes the mean delay small.

Source: Jain, Parayil, Mallick, Choukse et al., 2024, arXiv:2408.13510.
Shape legend: N requests, F features, J requests at an instance.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from roster.lm.load.batching import Instance, Machine, Router, serve
from roster.lm.load.search import cross_entropy
from roster.lm.records import Matrix

FEATURES = ("reading", "stalls", "mixing", "memory", "fullness", "requests")
HEURISTIC_F = np.array([1.0, 1.0, 1.0, 1.0, 0.0, 0.0])
"""The latency model's own sum; the last two are what it cannot see."""
SPREAD_F = np.array([0.5, 0.5, 0.5, 0.5, 1.0, 0.1])
SHORTEST = 8.0
"""Tokens that an answer is expected to go on for, however much longer than predicted it already is."""


@dataclass(frozen=True)
class Trace:
    """Requests as a simulator needs them, and what a router is told of them.

    Attributes:
        arrival_N: seconds.
        prompt_N, answer_N: tokens.
        predicted_N: the answers' expected tokens, which is all that a router knows of them.
    """

    arrival_N: Matrix
    prompt_N: Matrix
    answer_N: Matrix
    predicted_N: Matrix


class Loaded(Protocol):
    """What the router reads of an instance: a simulated one, or what a gateway knows of a real one.

    Attributes:
        waiting: requests (positions) that are not admitted yet, in order.
        running: admitted requests, oldest first.
        held: tokens in memory.
    """

    waiting: deque[int]
    running: list[int]
    held: int

    def written(self, n: int) -> int:
        """Tokens of the answer that there are so far."""
        ...


class WorkloadAware:
    """A router with weights; without `fit` it is the heuristic.

    Args:
        machine: what the latency model believes an iteration to cost.
        instances: how many.
    """

    def __init__(self, machine: Machine | None = None, instances: int = 4):
        self.machine, self.instances = machine or Machine(), instances
        self.weight_F = HEURISTIC_F.copy()

    def fit(
        self, draw: Callable[[int], Sequence[Trace]], rounds: int = 8, points: int = 14, seed: int = 0
    ) -> WorkloadAware:
        """Policy search on simulated traces.

        Args:
            draw: the traces of a round, by its number.
            rounds, points: of the search.
            seed: of the search.
        """
        traces: dict[int, Sequence[Trace]] = {}

        def loss(weight_F: Matrix, n: int) -> float:
            if n not in traces:
                traces[n] = draw(n)
            return float(np.mean([self._delay(trace, weight_F) for trace in traces[n]]))

        elite = max(points // 4, 1)
        self.weight_F = cross_entropy(loss, HEURISTIC_F, SPREAD_F, rounds, points, elite, seed)
        return self

    def router(self, trace: Trace, weight_F: Matrix | None = None) -> Router:
        """The router for a trace, of which it reads neither arrivals to come nor answers."""
        weights = self.weight_F if weight_F is None else weight_F
        prompt_N, predicted_N = np.asarray(trace.prompt_N, dtype=float), trace.predicted_N

        def route(n: int, now: float, fleet: Sequence[Instance]) -> int:
            return int(np.argmin([self.features(n, each, prompt_N, predicted_N) @ weights for each in fleet]))

        return route

    def features(self, n: int, instance: Loaded, prompt_N: Matrix, predicted_N: Matrix) -> Matrix:
        """What assigning request n to the instance would add, [F]: four in seconds, a share, and a count."""
        machine, prompt, answer = self.machine, prompt_N[n], predicted_N[n]
        running, waiting = instance.running, list(instance.waiting)
        there = running + waiting
        if not there:
            return np.array([machine.prefill * prompt, 0.0, 0.0, 0.0, (prompt + answer) / machine.memory, 0.0])
        written_J = np.array([instance.written(j) for j in there], dtype=float)
        left_J = np.maximum(predicted_N[there] - written_J, SHORTEST)
        size_J = prompt_N[there] + written_J
        queued = float(size_J[len(running) :].sum())
        both_J = np.minimum(left_J, answer)
        # Each slows the other: by one more row, and by the tokens that the other one holds.
        mixing = both_J @ (2 * machine.decode + machine.context * (prompt + size_J))
        wait = self._wait(instance, size_J, left_J, queued + prompt)
        return np.array(
            [
                machine.prefill * (queued + prompt),
                machine.prefill * prompt * len(running),
                mixing,
                wait,
                (float((size_J + left_J).sum()) + prompt + answer) / machine.memory,
                len(there),
            ]
        )

    def _wait(self, instance: Loaded, size_J: Matrix, left_J: Matrix, wanted: float) -> float:
        """Seconds until enough running answers have ended for the queue and the request to fit."""
        machine, count = self.machine, len(instance.running)
        missing = instance.held + wanted - machine.memory
        if missing <= 0 or not count:
            return 0.0
        order_J = np.argsort(left_J[:count])
        freed_J = np.cumsum((size_J + left_J)[:count][order_J])
        last = min(int(np.searchsorted(freed_J, missing)), count - 1)
        # A queue longer than all that runs now takes several such generations.
        generations = max(missing / freed_J[-1], 1.0)
        iteration = machine.base + machine.decode * count + machine.context * instance.held
        return float(left_J[:count][order_J][last] * iteration * generations)

    def _delay(self, trace: Trace, weight_F: Matrix) -> float:
        served = serve(
            trace.arrival_N,
            trace.prompt_N,
            trace.answer_N,
            self.router(trace, weight_F),
            self.instances,
            self.machine,
        )
        return float(served.delay_N.mean())
