"""Health checks: upstreams that want it are asked regularly, and their models rest while they do not answer.

Off unless an upstream has `health`. What requests themselves show is the circuits' business (`breaker.py`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from roster.gateway.config import Upstream
from roster.gateway.runtime import Runtime
from roster.gateway.upstreams import Client

log = logging.getLogger("roster.gateway")
LOOK_EVERY = 0.25
"""Seconds between looks at whose turn it is."""


class HealthChecks:
    """The checks of a gateway.

    Args:
        client: the connections.
        runtime: gives the current one, which a reload replaces.
    """

    def __init__(self, client: Client, runtime: Callable[[], Runtime]) -> None:
        self._client, self._runtime = client, runtime
        self._due: dict[str, float] = {}
        self._failures: dict[str, int] = {}

    async def look(self) -> None:
        """Asks every upstream whose turn has come, all at once."""
        upstreams = {name: each for name, each in self._runtime().config.upstreams.items() if each.health}
        now = time.monotonic()
        self._runtime().ways.down.intersection_update(upstreams)
        due = {name: each for name, each in upstreams.items() if now >= self._due.get(name, 0.0)}
        await asyncio.gather(*(self._ask(name, upstream) for name, upstream in due.items()))

    async def _ask(self, name: str, upstream: Upstream) -> None:
        assert upstream.health is not None
        self._due[name] = time.monotonic() + upstream.health.every
        answer = await self._client.probe(upstream, "GET", upstream.health.path)
        alive = answer is not None and answer[0] < 500
        self._failures[name] = 0 if alive else self._failures.get(name, 0) + 1
        down = self._runtime().ways.down
        if alive and name in down:
            down.discard(name)
            log.info("upstream %s answers its health checks again", name)
        elif self._failures[name] >= upstream.health.failures and name not in down:
            down.add(name)
            log.warning("upstream %s fails its health checks; its models are left alone until it answers", name)
