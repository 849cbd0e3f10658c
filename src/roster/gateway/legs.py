"""A leg: one call to one model, on behalf of one request. A request that is tried on several models has several."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from roster.gateway import prices
from roster.gateway.keys import NANO
from roster.gateway.metrics import Metrics
from roster.gateway.prices import NO_USAGE, Usage
from roster.gateway.upstreams import Target
from roster.gateway.ways import Ways
from roster.lm.policy import Decision


@dataclass
class Leg:
    """One call to one model.

    Attributes:
        target: the model.
        decision: why it was asked.
        outcome: answered, escalated, over_budget, or what failed; "asked" while it is under way.
        cost: in billionths.
        usage: its tokens, once known.
        confidence: of its answer, where it was looked at.
        upstream_id: the upstream's name for the answer.
        headers: the upstream's, for the client.
    """

    target: Target
    decision: Decision
    outcome: str = "asked"
    cost: int = 0
    usage: Usage = NO_USAGE
    confidence: float | None = None
    begun: float = field(default_factory=time.perf_counter)
    ended: float | None = None
    upstream_id: Any = None
    headers: dict[str, str] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """What the client is told about it."""
        told: dict[str, Any] = {"model": self.target.name, "outcome": self.outcome, "cost": self.cost / NANO}
        return told if self.confidence is None else told | {"confidence": round(self.confidence, 4)}

    def begin(self, ways: Ways) -> None:
        """The call is about to be made."""
        self.target.breaker.begin()
        ways.in_flight[self.target.way] += 1

    def charge(self, usage: Usage) -> None:
        """Notes what it used."""
        self.usage, self.cost = usage, prices.cost(self.target.model.price, usage)

    def end(self, outcome: str, ways: Ways, metrics: Metrics) -> None:
        """The call is over, and counted."""
        name = self.target.name
        self.outcome, self.ended = outcome, time.perf_counter()
        ways.in_flight[self.target.way] -= 1
        metrics.attempts.labels(name, outcome).inc()
        metrics.answer_seconds.labels(name).observe(self.ended - self.begun)
        metrics.tokens.labels(name, "prompt").inc(self.usage.prompt)
        metrics.tokens.labels(name, "completion").inc(self.usage.completion)
        metrics.cost.labels(name).inc(self.cost / NANO)
