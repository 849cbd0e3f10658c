"""A streamed answer on its way to the client: chunks are renamed, counted and passed on; the last tells what it cost.

The `roster` field is in the usage chunk where the client asked for one, else in the chunk with the finish reason, which
is held back until the usage has come. An upstream that sends garbage or stops mid-answer ends the stream with an error
event and without [DONE].
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from roster.gateway.errors import ApiError
from roster.gateway.prices import Usage, read_usage
from roster.gateway.session import Answer, Session
from roster.gateway.sse import DONE, event
from roster.gateway.upstreams import Failure


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
        self._produced = session.producing(answer.leg)
        self._created = int(time.time())
        super().__init__(
            self._events(), media_type="text/event-stream", headers={"cache-control": "no-cache"} | headers
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it; whatever ends it, the upstream is let go and the call is paid."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            # On its own task: a client that has gone takes this one with it.
            self._session.gateway.spawn(self._end("disconnected"))

    async def _events(self) -> AsyncIterator[bytes]:
        outcome = "answered"
        held = None
        try:
            async for chunk in self._chunks():
                finishes = self._passed(chunk)
                if not chunk["choices"]:
                    continue  # usage, which is told at the end
                if held is not None:
                    yield event(held)
                held = chunk if finishes else None
                if not finishes:
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
        for last in self._last(held):
            yield event(last)
        yield event(DONE)

    async def _chunks(self) -> AsyncIterator[dict[str, Any]]:
        if self._answer.stream is not None:
            async for chunk in self._answer.stream.chunks():
                yield chunk
        else:
            assert self._answer.body is not None
            yield _in_one_piece(self._answer.body)

    def _passed(self, chunk: dict[str, Any]) -> bool:
        """Notes what a chunk says and makes it the gateway's own; whether it finishes a choice."""
        counted = read_usage(chunk.pop("usage", None))
        chunk.update(self._frame())
        finishes = False
        for at, choice in enumerate(chunk["choices"]):
            index = choice.get("index", at)
            self._started.add(index)
            self._produced.add(index, choice)
            if choice.get("finish_reason"):
                self._finished.add(index)
                finishes = True
        if counted is not None:
            self._usage, self._produced = counted, self._session.producing(self._leg)
        return finishes

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
            self._session.charge(self._leg, self._used())

    def _used(self) -> Usage:
        """The last count and what came after it: a client may leave, or an upstream end, between two."""
        if self._usage is not None and not self._produced.wrote:
            return self._usage
        return self._session.used(self._leg, self._produced, self._usage)

    def _last(self, held: dict[str, Any] | None) -> list[dict[str, Any]]:
        """The chunks that tell the end, the usage and the cost."""
        extension = self._session.extension(self._leg)
        held = held or self._frame() | {"choices": []}
        if not self._session.asked.request.wants_usage:
            return [held | {"roster": extension}]
        usage = self._frame() | {"choices": [], "usage": self._leg.usage.body(), "roster": extension}
        return [held, usage] if held["choices"] else [usage]

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


def _in_one_piece(body: dict[str, Any]) -> dict[str, Any]:
    """A whole answer as the one chunk of a stream."""
    choices = []
    for choice in body["choices"]:
        rest = {key: value for key, value in choice.items() if key != "message"}
        choices.append(rest | ({"delta": choice["message"]} if "message" in choice else {}))
    return {"choices": choices}
