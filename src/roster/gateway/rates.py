"""Requests and tokens a minute, by key. Counted by each gateway for itself, in memory.

A bucket fills evenly and holds a minute's worth. A request takes one from its bucket when it comes; tokens are taken
when they have been counted, at the end, so that a long answer leaves a debt that later requests wait for.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from roster.gateway.errors import ApiError
from roster.gateway.keys import Caller


class Bucket:
    """So many a minute.

    Args:
        minute: how many.
        clock: seconds that never go back.
    """

    def __init__(self, minute: int, clock: Callable[[], float]) -> None:
        self.minute, self._clock = minute, clock
        self._level, self._at = float(minute), clock()

    def wait(self, wanted: float) -> float:
        """Seconds until so many are there; 0.0 when they are."""
        now = self._clock()
        self._level = min(self.minute, self._level + (now - self._at) * self.minute / 60)
        self._at = now
        return max(0.0, (wanted - self._level) * 60 / self.minute)

    def take(self, count: float) -> None:
        """Takes so many, also where they are not there."""
        self._level -= count


class Rates:
    """The buckets of all keys that have limits."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[tuple[str, str], Bucket] = {}

    def enter(self, caller: Caller) -> None:
        """A request has come.

        Raises:
            ApiError: 429, it came too soon.
        """
        requests, tokens = (
            self._bucket(caller, "requests", caller.rules.rpm),
            self._bucket(caller, "tokens", caller.rules.tpm),
        )
        for kind, bucket in (("requests", requests), ("tokens", tokens)):
            wait = bucket.wait(1.0) if bucket else 0.0
            if bucket and wait > 1e-6:
                message = f"This API key may use {bucket.minute} {kind} a minute; try again in {wait:.1f} seconds."
                raise ApiError(429, message, "rate_limit_exceeded", kind=kind, retry_after=wait)
        if requests:
            requests.take(1)

    def spent(self, caller: Caller, tokens: int) -> None:
        """A request has used so many tokens."""
        bucket = self._bucket(caller, "tokens", caller.rules.tpm)
        if bucket:
            bucket.take(tokens)

    def _bucket(self, caller: Caller, kind: str, minute: int | None) -> Bucket | None:
        if minute is None:
            return None
        found = self._buckets.get((caller.name, kind))
        if found is None or found.minute != minute:
            found = self._buckets[caller.name, kind] = Bucket(minute, self._clock)
        return found
