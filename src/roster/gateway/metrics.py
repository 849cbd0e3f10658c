"""Prometheus metrics of one gateway. Labels are names from the config or fixed words, never what a client sends."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """All of them, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "roster_requests", "HTTP requests by path and status", ["path", "status"], registry=registry
        )
        self.decisions = Counter(
            "roster_decisions", "Models chosen by policies", ["policy", "model"], registry=registry
        )
        self.attempts = Counter(
            "roster_attempts", "Calls to models and how they ended", ["model", "outcome"], registry=registry
        )
        self.tokens = Counter("roster_tokens", "Tokens read and written", ["model", "kind"], registry=registry)
        self.cost = Counter("roster_cost", "Money spent, in the currency of the prices", ["model"], registry=registry)
        self.over_budget = Counter("roster_over_budget", "Requests refused for want of budget", registry=registry)
        self.feedback = Counter("roster_feedback", "Scores received", ["policy", "learned"], registry=registry)
        self.reloads = Counter("roster_config_reloads", "Config reloads", ["result"], registry=registry)
        self.in_flight = Gauge("roster_in_flight", "Calls under way", ["model"], registry=registry)
        self.breaker_open = Gauge(
            "roster_breaker_open", "1 while a way to a model is left alone", ["way"], registry=registry
        )
        self.store_away = Gauge("roster_store_away", "1 while the store does not answer", registry=registry)
        self.spooled = Gauge("roster_spooled", "Calls that wait to be written", registry=registry)
        self.decision_seconds = Histogram(
            "roster_decision_seconds", "Time to decide", ["policy"], registry=registry,
            buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.1),
        )  # fmt: skip
        self.answer_seconds = Histogram(
            "roster_answer_seconds", "Time to the end of an answer", ["model"], registry=registry, buckets=_SECONDS
        )
        self.first_token_seconds = Histogram(
            "roster_first_token_seconds", "Time to a stream's first chunk", ["model"],
            registry=registry, buckets=_SECONDS,
        )  # fmt: skip

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
