"""Prometheus metrics of one server. Labels are names of the mixture's or fixed words, never what a client sends."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from roster.serve.engine import Engine

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """All of them, in a registry of their own.

    Args:
        engine: asked for its state whenever they are read.
    """

    def __init__(self, engine: Engine) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "roster_requests", "HTTP requests by path and status", ["path", "status"], registry=registry
        )
        self.answers = Counter(
            "roster_answers", "Answers by the model asked for, and how they ended", ["model", "finish"],
            registry=registry,
        )  # fmt: skip
        self.tokens = Counter("roster_tokens", "Tokens read and written", ["kind"], registry=registry)
        self.first_token_seconds = Histogram(
            "roster_first_token_seconds", "Time to the first token", registry=registry, buckets=_SECONDS
        )
        self.answer_seconds = Histogram(
            "roster_answer_seconds", "Time to the end of an answer", registry=registry, buckets=_SECONDS
        )
        gauges = {
            "roster_running": ("Answers at work", lambda: engine.running),
            "roster_waiting": ("Requests that wait", lambda: engine.waiting),
            "roster_steps": ("Forward passes that wrote a token of each row", lambda: engine.steps),
            "roster_stepped_rows": ("Rows of all those passes", lambda: engine.stepped),
        }
        for name, (about, read) in gauges.items():
            Gauge(name, about, registry=registry).set_function(read)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)
