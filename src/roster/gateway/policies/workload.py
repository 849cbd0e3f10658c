"""workload-aware: among servers of one model, the one where a request adds the least seconds, to itself and to others.

The recipe `workload-aware-router` (`roster.lm.load.workload`) on the gateway's own queues: what runs at each server is
what this policy has sent there and what has not ended, which the calls under way tell. How long prompts and answers are
is guessed from text and limits, how far an answer is from the seconds since. The latency model's constants are the
config's (`machine`); without training its sum is the score, as in the recipe's heuristic.

Source: Jain, Parayil, Mallick, Choukse et al., 2024, "Intelligent Router for LLM Workloads", arXiv:2408.13510. Differs:
see the recipe; and the gateway does not see when a server begins a request, so that all of them count as running.

Shape legend: F features, J requests at a server.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field

from roster.gateway.config import Amount, Model, Price, Strict
from roster.gateway.policies.base import Untrained, prices_of
from roster.gateway.prices import TYPICAL_ANSWER, estimate, guess_tokens
from roster.lm.load.batching import Machine
from roster.lm.load.workload import WorkloadAware
from roster.lm.policy import Decision

BEGINS_WITHIN = 0.5
"""Seconds after the decision, until which a call may not be under way yet."""


@dataclass
class Queue:
    """What is at one server, as `WorkloadAware` reads it.

    Attributes:
        step: seconds of an iteration.
        running: positions in `sent`, oldest first.
        waiting: always empty: nobody tells the gateway.
        held: tokens in its memory.
        sent: (prompt tokens, expected answer tokens, when) of each request under way, oldest first.
        now: of the last look.
    """

    step: float
    running: list[int] = field(default_factory=list)
    waiting: deque[int] = field(default_factory=deque)
    held: int = 0
    sent: deque[tuple[int, int, float]] = field(default_factory=deque)
    now: float = 0.0

    def look(self, count: int, now: float) -> None:
        """Keeps as many requests as are under way: those that were sent first have ended first, as far as is known."""
        while len(self.sent) > count and now - self.sent[0][2] > BEGINS_WITHIN:
            self.sent.popleft()
        self.now, self.running = now, list(range(len(self.sent)))
        self.held = sum(prompt + self.written(j) for j, (prompt, _, _) in enumerate(self.sent))

    def written(self, j: int) -> int:
        """Tokens that a request's answer has so far, by the clock."""
        _, answer, begun = self.sent[j]
        return min(answer, int((self.now - begun) / self.step))


class Costs(Strict):
    """What an iteration of a server takes, in seconds, and what it can hold.

    Attributes:
        base: of every iteration.
        prefill: per token of a prompt that is read.
        decode: per running answer.
        context: per token that the running requests hold.
        memory: tokens whose keys and values fit.
    """

    base: Amount = 0.025
    prefill: Amount = 2e-4
    decode: Amount = 1e-4
    context: Amount = 8e-7
    memory: Annotated[int, Field(ge=1)] = 15_000


class WorkloadAwarePolicy(Untrained):
    """Workload-aware routing among servers of one model.

    Args:
        name: what clients call it.
        options: see `Options`.
        prices: per model, for the estimate of costs.
        clock: seconds that never go back.
    """

    class Options(Strict):
        """What the config may say: `models`, the same model on several servers, and `machine`, what one costs."""

        models: Annotated[tuple[str, ...], Field(min_length=1, strict=False)]
        machine: Costs = Costs()

    def __init__(
        self,
        name: str,
        models: tuple[str, ...],
        machine: Machine,
        prices: Mapping[str, Price],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name, models)
        self._prices, self._clock = prices, clock
        self._rule = WorkloadAware(machine, len(models))
        self._queues = {model: Queue(max(machine.base + machine.decode, 1e-6)) for model in models}

    @classmethod
    def build(cls, name: str, options: Any, known: Mapping[str, Model], base: Path) -> Self:
        """From the config's options."""
        machine = Machine(**options.machine.model_dump())
        return cls(name, options.models, machine, prices_of(options.models, known))

    def decide(
        self,
        prompt: str,
        *,
        exclude: Set[str] = frozenset(),
        load: Mapping[str, float] | None = None,
        max_tokens: int | None = None,
        read: float | None = None,
    ) -> Decision:
        """By the seconds that the request would add."""
        now = self._clock()
        size, answer = max(guess_tokens(prompt), 1), max_tokens or TYPICAL_ANSWER
        counts = load or {}
        added = {
            model: self._added(model, int(counts.get(model, 0)), size, answer, now) for model in self.left(exclude)
        }
        chosen = min(added, key=lambda model: added[model])
        self._queues[chosen].sent.append((size, answer, now))
        reason = f"adds {added[chosen]:.3g} s to all answers"
        return Decision(chosen, reason, cost=estimate(self._prices[chosen], prompt, max_tokens))

    def _added(self, model: str, count: int, size: int, answer: int, now: float) -> float:
        queue = self._queues[model]
        queue.look(count, now)
        sent = [*queue.sent, (size, answer, now)]
        prompt_N = np.array([each[0] for each in sent], dtype=float)
        predicted_N = np.array([each[1] for each in sent], dtype=float)
        features_F = self._rule.features(len(sent) - 1, queue, prompt_N, predicted_N)
        return float(features_F @ self._rule.weight_F)
