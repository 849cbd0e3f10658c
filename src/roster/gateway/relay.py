"""A streamed answer on its way to the client: chunks are renamed, counted and passed on; the last tells what it cost.

The `roster` field is in the usage chunk where the client asked for one, else in a chunk of its own with an empty delta,
since clients look at `choices[0]`; no chunk is held back. While a model is silent, comments keep the connection (before
its first chunk that is `waiting.py`'s business). An upstream that sends garbage or stops mid-answer ends the stream
with an error event and without [DONE].
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from roster.gateway.errors import ApiError
from roster.gateway.prices import Usage, read_usage
from roster.gateway.session import Answer, Session
from roster.gateway.sse import DONE, KEEP_ALIVE, event
from roster.gateway.upstreams import Failure

_FRAME = frozenset({"id", "object", "created", "model", "choices", "usage", "system_fingerprint", "service_tier"})
"""What every chunk has; one without choices that has no more than this tells a client nothing."""


class Relay(StreamingResponse):
    """The response of a streamed answer.

    Args:
        session: the request.
        answer: a stream, or a whole answer that is sent in one piece.
        headers: to send.
    """

    def __init__(self, session: Session, answer: Answer, headers: dict[str, str]) -> None:
        self._session, self._answer, self._leg = session, answer, answer.leg
        self._started: set[int] = set()
        self._finished: set[int] = set()
        self._usage: Usage | None = None
        self._beside_usage: dict[str, Any] = {}
        """Further fields of the upstream's chunk of usage."""
        self._quiet_since, self._open = time.monotonic(), False
        self._produced = session.producing(answer.leg)
        self._created = int(time.time())
        super().__init__(
            self._events(), media_type="text/event-stream", headers={"cache-control": "no-cache"} | headers
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it; whatever ends it, the upstream is let go and the call is paid."""
        alive = asyncio.create_task(self._keep_alive(send))

        async def noted(message: Message) -> None:
            # The end is noted before it is sent: nothing may follow it.
            self._open = message.get("more_body", True)
            self._quiet_since = time.monotonic()
            await send(message)

        try:
            await super().__call__(scope, receive, noted)
        finally:
            alive.cancel()
            self.abandon()

    def abandon(self) -> None:
        """The client has gone, or everything has been sent, and then this does nothing."""
        # On its own task: a client that has gone takes this one with it.
        self._session.gateway.spawn(self._end("disconnected"))

    async def _keep_alive(self, send: Send) -> None:
        every = self._session.runtime.config.listen.keep_alive
        while True:
            await asyncio.sleep(max(0.01, self._quiet_since + every - time.monotonic()))
            if self._open and time.monotonic() >= self._quiet_since + every:
                self._quiet_since = time.monotonic()
                await send({"type": "http.response.body", "body": KEEP_ALIVE, "more_body": True})

    async def _events(self) -> AsyncIterator[bytes]:
        outcome = "answered"
        try:
            async for chunk in self._chunks():
                self._note(chunk)
                if chunk["choices"] or chunk.keys() - _FRAME:
                    yield event(chunk)
            self._check_complete()
        except Failure as failure:
            outcome = failure.kind
        self._charge()
        await self._end(outcome)
        if outcome != "answered":
            message = f"The model {self._leg.target.name!r} stopped before the answer was complete ({outcome})."
            error = ApiError(502, message, "upstream_failed", kind="server_error").body()
            yield event(error | {"roster": self._session.extension(self._leg)})
            return
        yield event(self._last())
        yield event(DONE)

    async def _chunks(self) -> AsyncIterator[dict[str, Any]]:
        if self._answer.stream is not None:
            async for chunk in self._answer.stream.chunks():
                yield chunk
        else:
            assert self._answer.body is not None
            yield in_one_piece(self._answer.body)

    def _note(self, chunk: dict[str, Any]) -> None:
        """Notes what a chunk says and makes it the gateway's own."""
        counted = read_usage(chunk.get("usage"))
        if not (chunk["choices"] and self._session.asked.request.wants_each_usage):
            chunk.pop("usage", None)  # it is told at the end
        self._leg.upstream_id = chunk.get("id") or self._leg.upstream_id
        if counted is not None and not chunk["choices"]:
            self._beside_usage = {key: chunk.pop(key) for key in chunk.keys() - _FRAME}
        chunk.update(self._frame())
        for at, choice in enumerate(chunk["choices"]):
            index = choice.get("index", at)
            self._started.add(index)
            self._produced.add(index, choice)
            if choice.get("finish_reason"):
                self._finished.add(index)
        if counted is not None:
            self._usage, self._produced = counted, self._session.producing(self._leg)

    def _frame(self) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self._session.asked.kind == "chat" else "text_completion"
        return {
            "id": self._session.id,
            "object": kind,
            "created": self._created,
            "model": self._leg.target.name,
        }

    def _check_complete(self) -> None:
        """An upstream may leave out [DONE] or the finish reason, but not both."""
        stream = self._answer.stream
        if stream is not None and not stream.said_done and not (self._finished and self._started <= self._finished):
            raise Failure("stopped")

    def _charge(self) -> None:
        """By the upstream's count; without one, by what went through."""
        if self._answer.stream is not None:
            self._leg.charge(self._used())

    def _used(self) -> Usage:
        """The last count and what came after it: a client may leave, or an upstream end, between two."""
        if self._usage is not None and not self._produced.wrote:
            return self._usage
        return self._session.used(self._leg, self._produced, self._usage)

    def _last(self) -> dict[str, Any]:
        """The chunk that tells the usage, if that was asked for, and the cost."""
        told = self._beside_usage | self._frame() | {"roster": self._session.extension(self._leg)}
        if self._session.asked.request.wants_usage:
            return told | {"choices": [], "usage": self._leg.usage.body()}
        empty: dict[str, Any] = {"delta": {}} if self._session.asked.kind == "chat" else {"text": "", "logprobs": None}
        return told | {"choices": [{"index": 0, "finish_reason": None} | empty]}

    async def _end(self, outcome: str) -> None:
        """Once: the upstream is let go, the breaker told, the call paid."""
        leg, stream = self._leg, self._answer.stream
        if stream is not None and leg.outcome == "asked":
            if outcome == "disconnected":
                self._charge()
            {"answered": leg.target.breaker.succeeded, "disconnected": leg.target.breaker.abandoned}.get(
                outcome, leg.target.breaker.failed
            )()
            self._session.end_leg(leg, outcome)
            stream.close()
        await self._session.finish(leg, outcome)


def in_one_piece(body: dict[str, Any]) -> dict[str, Any]:
    """A whole answer as the one chunk of a stream."""
    choices = []
    for choice in body["choices"]:
        rest = {key: value for key, value in choice.items() if key != "message"}
        choices.append(rest | ({"delta": _delta(choice["message"])} if "message" in choice else {}))
    return {key: value for key, value in body.items() if key != "usage"} | {"choices": choices}


def _delta(message: dict[str, Any]) -> dict[str, Any]:
    """A message as a delta, whose calls of tools are numbered."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    numbered = [{"index": at} | call if isinstance(call, dict) else call for at, call in enumerate(calls)]
    return message | {"tool_calls": numbered}
