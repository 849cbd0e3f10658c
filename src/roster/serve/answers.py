"""Answers on their way to the client: the engine's events become text, and text OpenAI's objects, whole or a stream."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from roster.gateway.errors import ApiError
from roster.gateway.sse import DONE, KEEP_ALIVE, event
from roster.serve.engine import Engine, Full
from roster.serve.jobs import Ended, Event, Failed, Finish, Job, Routed
from roster.serve.metrics import Metrics
from roster.serve.mixture import Asked, ServedMixture
from roster.serve.writing import Writing

KEEP_ALIVE_SECONDS = 15.0
"""Of silence in a stream, after which a comment tells the client that it goes on."""


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

    Raises:
        ApiError: as many requests wait as may.
    """

    def __init__(self, server: Server, asked: Asked) -> None:
        self._server, self._asked = server, asked
        self.id = f"{'chatcmpl' if asked.chat else 'cmpl'}-{uuid.uuid4().hex}"
        self._created, self._begun = int(time.time()), time.perf_counter()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def emit(happened: Event) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._events.put_nowait, happened)

        self._job = Job(asked.ids, asked.gates_E, asked.limit, asked.ends, asked.sampling, emit)
        self._writing = Writing(server.mixture.mixture.tokenizer, asked.stops)
        self._weights: dict[str, float] = {}
        self._tokens = 0
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
        metrics.tokens.labels("completion").inc(self._tokens)
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
                self._weights = happened.weights
                continue
            if isinstance(happened, Ended):
                text = self._writing.end()
                self.finish = happened.finish
            else:
                if not self._tokens:
                    self._server.metrics.first_token_seconds.observe(time.perf_counter() - self._begun)
                self._tokens += 1
                text = self._writing.add(happened.id)
                if self._writing.stopped:
                    self.finish = "stop"
            if text:
                yield text

    async def whole(self) -> dict[str, Any]:
        """The answer as one object."""
        text = "".join([piece async for piece in self.texts() if piece])
        said: dict[str, Any] = (
            {"message": {"role": "assistant", "content": text}} if self._asked.chat else {"text": text}
        )
        choice = {"index": 0, "finish_reason": self.finish, "logprobs": None} | said
        kind = "chat.completion" if self._asked.chat else "text_completion"
        return self._frame(kind) | {"choices": [choice], "usage": self._usage(), "roster": self._extension()}

    async def stream(self) -> AsyncIterator[bytes]:
        """The answer as server-sent events; closes it."""
        try:
            if self._asked.chat:
                yield event(self._chunk({"role": "assistant", "content": ""}))
            async for text in self.texts(KEEP_ALIVE_SECONDS):
                yield KEEP_ALIVE if text is None else event(self._chunk({"content": text}))
            yield event(self._chunk({}, self.finish))
            yield event(self._last())
            yield event(DONE)
        except ApiError as error:
            yield event(error.body())
        finally:
            self.close()

    def _last(self) -> dict[str, Any]:
        """The chunk that tells the usage, if that was asked for, and who was on duty."""
        told = self._chunk({}) | {"roster": self._extension()}
        return told | {"choices": [], "usage": self._usage()} if self._asked.usage else told

    def _chunk(self, delta: dict[str, Any], finish: Finish | None = None) -> dict[str, Any]:
        chat = self._asked.chat
        said = {"delta": delta} if chat else {"text": delta.get("content", ""), "logprobs": None}
        choice = {"index": 0, "finish_reason": finish} | said
        return self._frame("chat.completion.chunk" if chat else "text_completion") | {"choices": [choice]}

    def _frame(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self._created, "model": self._asked.model}

    def _usage(self) -> dict[str, int]:
        prompt = len(self._asked.ids)
        return {"prompt_tokens": prompt, "completion_tokens": self._tokens, "total_tokens": prompt + self._tokens}

    def _extension(self) -> dict[str, Any]:
        return self._server.mixture.extension(self.id, self._asked, self._weights)
