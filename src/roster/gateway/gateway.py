"""The gateway: what outlives a request. Store, connections, metrics, the current runtime, and the chores between."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Set
from pathlib import Path
from typing import Any

from roster.errors import RosterError
from roster.gateway import virtual_keys
from roster.gateway.answers import Answers
from roster.gateway.config_file import Config
from roster.gateway.health import LOOK_EVERY, HealthChecks
from roster.gateway.keys import Keyring
from roster.gateway.learning import catch_up_all
from roster.gateway.ledger import Ledger
from roster.gateway.memory import Prompts
from roster.gateway.metrics import Metrics
from roster.gateway.rates import Rates
from roster.gateway.reading import read_config
from roster.gateway.runtime import Runtime
from roster.gateway.shadows import Shadows
from roster.gateway.store import Store, StoreAway
from roster.gateway.tracing import Traces, exporter
from roster.gateway.upstreams import Client
from roster.gateway.wishes import Wish, at_least
from roster.lm.policy import Decision
from roster.lm.text import Said

log = logging.getLogger("roster.gateway")
CATCH_UP_EVERY = 5.0
"""Seconds between looks at what other gateways on the same store have learned."""
PRUNE_EVERY = 3600.0
FLUSH_EVERY = 0.5
"""Seconds between tries to write what waits for the store."""


class Gateway:
    """Everything that requests share.

    Args:
        config: what to serve.
        base: the folder that relative paths in it are relative to.

    Raises:
        RosterError: a policy cannot be made, or the store cannot be opened.
    """

    def __init__(self, config: Config, base: Path = Path()) -> None:
        self.base = base
        self.runtime = Runtime(config, base)
        try:
            self.store = Store(config.keeping.store, base)
        except RosterError:
            self.runtime.close()
            raise
        self.keyring = Keyring(config)
        self.rates = Rates()
        self.shadows = Shadows(self)
        self.answers = Answers(config.keeping.cache)
        self.traces = Traces(exporter() if config.keeping.traces else None)
        self.metrics = Metrics()
        self.client = Client()
        self._health = HealthChecks(self.client, lambda: self.runtime)
        self.ledger = Ledger(self.store, config.limits.spool_bytes)
        self._prompts = Prompts()
        self._tasks: set[asyncio.Task[None]] = set()
        self._chores: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Takes back what was learned, and begins the chores.

        Raises:
            RosterError: what was learned does not fit a policy.
        """
        for learner in self.runtime.learners.values():
            await learner.catch_up(self.store)
        await self.refresh_keys()
        self._chores = [
            asyncio.create_task(self._every(CATCH_UP_EVERY, self._catch_up)),
            asyncio.create_task(self._every(FLUSH_EVERY, self.ledger.flush)),
            asyncio.create_task(self._every(PRUNE_EVERY, self._prune)),
            asyncio.create_task(self._every(LOOK_EVERY, self._health.look)),
        ]

    async def stop(self) -> None:
        """Finishes what was begun, and lets everything go."""
        for chore in self._chores:
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.ledger.close()
        await self.client.close()
        await asyncio.to_thread(self.traces.close)
        self.runtime.close()
        self.store.close()

    async def decide(
        self,
        runtime: Runtime,
        wish: Wish,
        said: Said,
        exclude: Set[str],
        max_tokens: int | None,
    ) -> Decision:
        """Asks a policy, and takes its time.

        Raises:
            RosterError: every model is excluded.
            ApiError: a threshold is wanted that the policy cannot keep.
        """
        policy = wish.policy
        assert policy is not None
        begun = time.perf_counter()
        decision = await runtime.learners[policy].decide(said, exclude, runtime.ways.load, max_tokens)
        if wish.threshold is not None:
            models, made = runtime.config.models, runtime.learners[policy].policy
            decision = at_least(decision, wish.threshold, made, exclude, models, said.whole)
        self.metrics.decision_seconds.labels(policy).observe(time.perf_counter() - begun)
        self.metrics.decisions.labels(policy, decision.model).inc()
        return decision

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Does something that must be finished, whatever becomes of the request."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a request could not be finished", exc_info=task.exception())

    def remember(self, call: str, policy: str | None, said: Said) -> None:
        """Keeps what a policy was asked about for feedback, in memory only, if it learns."""
        learner = self.runtime.learners.get(policy or "")
        if learner is not None and learner.learns:
            limits = self.runtime.config.limits
            self._prompts.keep(
                call, said.under(learner.policy.text), limits.remembered_prompts, limits.remembered_bytes
            )

    def remembered(self, call: str) -> str | None:
        """The prompt of a recent call."""
        return self._prompts.get(call)

    async def reload(self, path: Path) -> None:
        """Takes a changed config file; when anything is wrong with it, everything stays as it was.

        Raises:
            RosterError: what is wrong.
        """
        config = await asyncio.to_thread(read_config, path)
        now = self.runtime.config
        fixed = {
            "listen": (config.listen, now.listen),
            **{key: (getattr(config.keeping, key), getattr(now.keeping, key)) for key in ("store", "cache", "traces")},
        }
        for key, (wanted, there) in fixed.items():
            if wanted != there:
                raise RosterError(f"{path}: {key}: cannot be changed without a restart")
        runtime = await asyncio.to_thread(Runtime, config, self.base, self.runtime)
        try:
            for learner in runtime.learners.values():
                await learner.catch_up(self.store)
        except RosterError:
            runtime.close()
            raise
        before, self.runtime = self.runtime, runtime
        await self.refresh_keys()
        # Requests that were under way may still ask the old policies: their threads end with the last reference.
        del before

    def scrape(self) -> bytes:
        """All metrics, with what changes between requests as it is now."""
        for target in self.runtime.ways:
            self.metrics.breaker_open.labels(target.way).set(float(target.breaker.opened_at is not None))
        for model, count in self.runtime.ways.load.items():
            self.metrics.in_flight.labels(model).set(count)
        self.metrics.store_away.set(float(self.ledger.away))
        self.metrics.spooled.set(self.ledger.waiting)
        return self.metrics.text()

    async def refresh_keys(self) -> None:
        """Takes the keys that the store has."""
        self.keyring = Keyring(self.runtime.config, await virtual_keys.listed(self.store))

    async def _catch_up(self) -> None:
        await self.refresh_keys()
        await catch_up_all(self.runtime.learners, self.store)

    async def _prune(self) -> None:
        await self.store.prune(self.runtime.config.limits.keep_days)

    async def _every(self, seconds: float, chore: Any) -> None:
        while True:
            try:
                await chore()
            except StoreAway as error:
                log.warning("a chore has to wait: %s", error)
            except Exception:
                log.exception("a chore failed")
            await asyncio.sleep(seconds)
