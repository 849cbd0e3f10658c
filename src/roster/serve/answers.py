"""Answers on their way to the client: the engine's events become text, piece by piece."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from roster.gateway.errors import ApiError
from roster.serve.engine import Engine, Full
from roster.serve.jobs import Ended, Event, Failed, Finish, Job, Routed
from roster.serve.metrics import Metrics
from roster.serve.mixture import Asked, ServedMixture
from roster.serve.writing import Writing


@dataclass(frozen=True)
class Server:
    """What requests share.

    Attributes:
        mixture: the model, its names and limits.
        engine: works on jobs.
        metrics: of all.
    """

    mixture: ServedMixture
    engine: Engine
    metrics: Metrics


class Answer:
    """One answer, from the request to its last token; whoever has it closes it.

    Args:
        server: what requests share.
        asked: the request.

    Attributes:
        weights: of the experts on duty, once the prompt has been read.
        tokens: written so far.
        finish: why it ended; None before.

    Raises:
        ApiError: as many requests wait as may.
    """

    def __init__(self, server: Server, asked: Asked) -> None:
        self._server, self._asked = server, asked
        self._begun = time.perf_counter()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def emit(happened: Event) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._events.put_nowait, happened)

        self._job = Job(asked.ids, asked.gates_E, asked.limit, asked.ends, asked.sampling, emit)
        self._writing = Writing(server.mixture.mixture.tokenizer, asked.stops)
        self.weights: dict[str, float] = {}
        self.tokens = 0
        self.finish: Finish | None = None
        try:
            server.engine.submit(self._job)
        except Full:
            message = "As many requests wait as may; try again later."
            raise ApiError(503, message, "queue_full", "server_error", retry_after=1.0) from None

    def close(self) -> None:
        """Lets the engine go on without it, and counts what was produced."""
        if self.finish is None or self._writing.stopped:
            self._server.engine.cancel(self._job)
        metrics = self._server.metrics
        metrics.tokens.labels("prompt").inc(len(self._asked.ids))
        metrics.tokens.labels("completion").inc(self.tokens)
        metrics.answers.labels(self._asked.model, self.finish or "abandoned").inc()
        metrics.answer_seconds.observe(time.perf_counter() - self._begun)

    async def texts(self, patience: float | None = None) -> AsyncIterator[str | None]:
        """The text, piece by piece; None after so many seconds of silence.

        Raises:
            ApiError: the model failed.
        """
        while self.finish is None:
            try:
                async with asyncio.timeout(patience):
                    happened = await self._events.get()
            except TimeoutError:
                yield None
                continue
            if isinstance(happened, Failed):
                raise ApiError(500, "The model failed at this request.", "internal_error", kind="server_error")
            if isinstance(happened, Routed):
                self.weights = happened.weights
                continue
            if isinstance(happened, Ended):
                text = self._writing.end()
                self.finish = happened.finish
            else:
                if not self.tokens:
                    self._server.metrics.first_token_seconds.observe(time.perf_counter() - self._begun)
                self.tokens += 1
                text = self._writing.add(happened.id)
                if self._writing.stopped:
                    self.finish = "stop"
            if text:
                yield text
