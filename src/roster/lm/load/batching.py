"""Batching: instances of one model that serve many requests at once, iteration by iteration (continuous batching).

In an iteration an instance reads the prompts it admits and writes one token of every running answer. It takes

    base + prefill x prompt tokens read + decode x running answers + context x tokens they hold in memory   seconds.

Requests wait first come, first served until their prompt fits into the memory for keys and values. Answers grow; when
the memory would overflow, the youngest is put back to the head of the queue and later reads its prompt and what it had
written again. Prompts are read whole, no instance looks ahead, and nobody knows how long an answer will be.

Shape legend: N requests in order of arrival.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roster.errors import RosterError
from roster.lm.load.queue import Served
from roster.lm.records import Matrix


@dataclass(frozen=True)
class Machine:
    """What an instance's iterations cost, in seconds, and what it can hold.

    Attributes:
        base: of every iteration: reading the weights.
        prefill: per token of a prompt that is read.
        decode: per running answer.
        context: per token that the running requests hold.
        memory: tokens whose keys and values fit.
    """

    base: float = 0.025
    prefill: float = 2e-4
    decode: float = 1e-4
    context: float = 8e-7
    memory: int = 15_000


class Instance:
    """One instance. A router may read the attributes below; how long answers will get is nobody's to see.

    Attributes:
        clock: when the iteration in progress ends; the past when it is idle.
        waiting: requests (positions) that are not admitted yet, in order.
        running: admitted requests, oldest first.
        held: tokens in memory.
    """

    def __init__(self, machine: Machine, prompt_N: Sequence[int], answer_N: Sequence[int]):
        self.machine, self.clock, self.held = machine, 0.0, 0
        self.waiting: deque[int] = deque()
        self.running: list[int] = []
        self.done: dict[int, float] = {}
        self._prompt_N, self._answer_N = prompt_N, answer_N
        # Answers are counted by iterations: a running request has written `_steps` - `_origin` tokens.
        self._steps, self._next_end = 0, -1
        self._origin: dict[int, int] = {}
        self._kept: dict[int, int] = {}

    def written(self, n: int) -> int:
        """Tokens of the answer that there are so far."""
        return self._steps - self._origin[n] if n in self._origin else self._kept.get(n, 0)

    def add(self, n: int, now: float) -> None:
        """A request arrives; the instance must have been advanced to `now`."""
        self.clock = max(self.clock, now)
        self.waiting.append(n)

    def advance(self, until: float) -> None:
        """Runs every iteration that begins before that time."""
        while (self.running or self.waiting) and self.clock < until:
            self._iterate()

    def _iterate(self) -> None:
        machine = self.machine
        while len(self.running) > 1 and self.held + len(self.running) > machine.memory:
            self._put_back()
        seconds = machine.base + machine.decode * len(self.running) + machine.context * self.held
        seconds += machine.prefill * self._admit()
        self.clock += seconds
        self._steps += 1
        self.held += len(self.running)
        if self._steps == self._next_end:
            self._finish()

    def _admit(self) -> int:
        read = 0
        while self.waiting:
            n = self.waiting[0]
            size = self._prompt_N[n] + self._kept.get(n, 0)
            if self.held + size + len(self.running) + 1 > self.machine.memory:
                break
            self.running.append(self.waiting.popleft())
            self._origin[n] = self._steps - self._kept.pop(n, 0)
            self.held += size
            read += size
        if read:
            self._look_ahead()
        return read

    def _put_back(self) -> None:
        n = self.running.pop()
        self._kept[n] = self.written(n)
        self.held -= self._prompt_N[n] + self._kept[n]
        del self._origin[n]
        self.waiting.appendleft(n)
        self._look_ahead()

    def _finish(self) -> None:
        for n in [n for n in self.running if self.written(n) == self._answer_N[n]]:
            self.running.remove(n)
            self.held -= self._prompt_N[n] + self._answer_N[n]
            del self._origin[n]
            self.done[n] = self.clock
        self._look_ahead()

    def _look_ahead(self) -> None:
        self._next_end = min((self._origin[n] + self._answer_N[n] for n in self.running), default=-1)


Router = Callable[[int, float, Sequence[Instance]], int]
"""The instance for a request (by its position) that arrives at that time."""


def serve(
    arrival_N: Matrix,
    prompt_N: NDArray[np.int64] | Matrix,
    answer_N: NDArray[np.int64] | Matrix,
    router: Router,
    instances: int = 4,
    machine: Machine | None = None,
) -> Served:
    """Runs the instances until every request is answered.

    Args:
        arrival_N: times, not falling.
        prompt_N, answer_N: tokens, each at least 1.
        router: names the instance.
        instances, machine: how many, and of what kind.

    Raises:
        RosterError: arrivals that fall or do not match, empty prompts or answers, or a request that never fits.
    """
    machine = machine or Machine()
    if not len(arrival_N) == len(prompt_N) == len(answer_N) or (np.diff(arrival_N) < 0).any():
        raise RosterError("arrivals must be in order, one per request")
    if min(np.min(prompt_N), np.min(answer_N)) < 1:
        raise RosterError("every prompt and every answer must have at least 1 token")
    if (largest := int(np.max(prompt_N + answer_N))) > machine.memory:
        raise RosterError(f"a request of {largest} tokens does not fit into a memory of {machine.memory}")
    # Plain integers: the loop above is several times slower on numpy's.
    lengths = (np.asarray(prompt_N).tolist(), np.asarray(answer_N).tolist())
    fleet = [Instance(machine, *lengths) for _ in range(instances)]
    server_N = np.empty(len(arrival_N), dtype=np.int64)
    for n, now in enumerate(np.asarray(arrival_N).tolist()):
        for instance in fleet:
            instance.advance(now)
        server_N[n] = router(n, now, fleet)
        fleet[server_N[n]].add(n, now)
    for instance in fleet:
        instance.advance(np.inf)
    end_N = np.array([fleet[m].done[n] for n, m in enumerate(server_N)])
    return Served(server_N, end_N - arrival_N)


def round_robin(n: int, now: float, fleet: Sequence[Instance]) -> int:
    """The instances in turn."""
    return n % len(fleet)


def shortest_queue(n: int, now: float, fleet: Sequence[Instance]) -> int:
    """The instance with the fewest requests that are not answered; the first of equals."""
    return int(np.argmin([len(each.waiting) + len(each.running) for each in fleet]))
