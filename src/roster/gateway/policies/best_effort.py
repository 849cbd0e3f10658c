"""best-effort: the busier the models, the less quality a request is given, so that answers come in time.

    model = argmax_m  quality_m P(wait_m + seconds_m <= deadline)^caution - price(load) (1 + crowd count_m) seconds_m

is the recipe `learned-best-effort` (`roster.lm.load.best_effort`) on the gateway's own queues: count_m are the calls
under way at each model, the load is the rate at which requests come to this policy. Prices, caution and crowd are
learned when the gateway starts, by policy search on simulated traces of models with the quality and the seconds that
the config tells, at the arrival rates that it names.

Source: Jha, Hooper, Liu, Kim, Keutzer, 2024, "Learned Best-Effort LLM Serving", arXiv:2401.07886. Differs: see the
recipe; and models that serve several requests at once (`at_once`) count as that many times shorter queues.

Shape legend: N simulated requests, M models.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field

from roster.errors import RosterError
from roster.gateway.config import Model, Price, Seconds, Strict
from roster.gateway.policies.base import Untrained, prices_of
from roster.gateway.prices import estimate
from roster.lm.load.best_effort import MEMORY, BestEffort, Expected
from roster.lm.policy import Decision

_TRACES = {"requests": 100, "rounds": 6, "points": 10}
"""Of the search at the start, which takes a second or two."""
_DRAWN = 256
"""Requests that the simulated traces are drawn from."""


class Expectation(Strict):
    """What is expected of a model.

    Attributes:
        quality: mean score of its answers, from 0 to 1, as `roster lm eval` reports it.
        seconds: mean seconds that an answer takes when nothing waits.
        at_once: how many requests it serves side by side without slowing down.
    """

    quality: Annotated[float, Field(ge=0, le=1)]
    seconds: Seconds
    at_once: Annotated[int, Field(ge=1)] = 1


class BestEffortPolicy(Untrained):
    """Best-effort serving under a deadline.

    Args:
        name: what clients call it.
        options: see `Options`.
        prices: per model, for the estimate of costs.
        clock: seconds that never go back.
    """

    class Options(Strict):
        """What the config may say.

        Attributes:
            deadline: seconds from a request to its complete answer; a later one is worth nothing.
            models: what is expected of each.
            rates: requests a second, rising: the loads that prices are learned at.
            spread: standard deviation of the logarithm of the seconds that answers take.
            seed: of the search.
        """

        deadline: Seconds
        models: Annotated[dict[str, Expectation], Field(min_length=1)]
        rates: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1, strict=False)] = (0.1, 0.5, 2.0)
        spread: Annotated[float, Field(gt=0, le=3)] = 0.5
        seed: int = 0

    def __init__(
        self,
        name: str,
        options: Options,
        prices: Mapping[str, Price],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name, options.models)
        told = list(options.models.values())
        self._quality_M = np.array([each.quality for each in told])
        self._seconds_M = np.array([each.seconds for each in told])
        self._at_once_M = np.array([each.at_once for each in told])
        self._spread_M, self._prices, self._clock = np.full(len(told), options.spread), prices, clock
        self._arrivals: deque[float] = deque(maxlen=MEMORY + 1)
        self.rule = self._learned(options)

    @classmethod
    def build(cls, name: str, options: Any, known: Mapping[str, Model], base: Path) -> Self:
        """From the config's options."""
        return cls(name, options, prices_of(options.models, known))

    def _learned(self, options: Options) -> BestEffort:
        """The rule, fit to requests like those that the config expects; its servers take one request each."""
        rng = np.random.default_rng(options.seed)
        shape = (_DRAWN, len(self.models))
        noise_NM = np.exp(options.spread * rng.standard_normal(shape) - options.spread**2 / 2)
        # As many servers side by side finish as many requests in the same time.
        served_M = self._seconds_M / self._at_once_M
        expected = Expected(np.tile(self._quality_M, (_DRAWN, 1)), np.tile(served_M, (_DRAWN, 1)), self._spread_M)
        try:
            rule = BestEffort(options.deadline, options.rates)
        except RosterError as error:
            raise RosterError(f"policies.{self.name}: {error}") from None
        return rule.fit(expected, expected.quality_NM, served_M * noise_NM, seed=options.seed, **_TRACES)

    def decide(
        self,
        prompt: str,
        *,
        exclude: Set[str] = frozenset(),
        load: Mapping[str, float] | None = None,
        max_tokens: int | None = None,
        read: float | None = None,
    ) -> Decision:
        """By quality, the chance to be in time, and what the model's time is worth at this load."""
        left = set(self.left(exclude))
        self._arrivals.append(self._clock())
        gap = (self._arrivals[-1] - self._arrivals[0]) / max(len(self._arrivals) - 1, 1)
        count_M = np.array([(load or {}).get(model, 0.0) for model in self.models])
        queued_M = np.maximum(count_M - self._at_once_M + 1, 0.0)
        wait_M = np.maximum(queued_M - 0.5, 0.0) * self._seconds_M / self._at_once_M
        expected = Expected(self._quality_M[None], self._seconds_M[None], self._spread_M)
        worth_M = self.rule.worth(expected, count_M / self._at_once_M, wait_M, gap)
        worth_M[[model not in left for model in self.models]] = -np.inf
        at = int(np.argmax(worth_M))
        model, delay = self.models[at], float(wait_M[at] + self._seconds_M[at])
        return Decision(
            model,
            f"worth most at {1 / gap:.2g} requests a second" if gap > 0 else "worth most at this load",
            quality=float(self._quality_M[at]),
            cost=estimate(self._prices[model], prompt, max_tokens),
            delay=delay,
            quality_by_model=dict(zip(self.models, self._quality_M.tolist(), strict=True)),
        )
