"""A stream whose first chunk has not come: after a silence the client gets a 200 and comments that keep its connection.

A model that answers or fails sooner than `listen.keep_alive` seconds is answered with its own status and headers, as
ever; only who waits longer is told of a failure by an error event, since the status has gone out by then.
"""

from __future__ import annotations

import asyncio

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from roster.gateway.errors import ApiError
from roster.gateway.http import leaves
from roster.gateway.relay import Relay
from roster.gateway.session import Answer, Session
from roster.gateway.sse import KEEP_ALIVE, event


class Waiting(Response):
    """The response; it becomes a `Relay` when there is an answer.

    Args:
        session: the request.
        answer: comes, or fails with an `ApiError`; given up when the client leaves.
    """

    def __init__(self, session: Session, answer: asyncio.Task[Answer]) -> None:
        self._session, self._answer = session, answer
        headers = {"cache-control": "no-cache", "x-roster-id": session.id}
        super().__init__(media_type="text/event-stream", headers=headers)
        # No length is known, and a body of none is not what comes.
        self.raw_headers = [each for each in self.raw_headers if each[0] != b"content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends comments until there is an answer, then the answer."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        left = asyncio.create_task(leaves(receive))
        try:
            while not self._answer.done() and not left.done():
                await send({"type": "http.response.body", "body": KEEP_ALIVE, "more_body": True})
                every = self._session.runtime.config.listen.keep_alive
                await asyncio.wait({self._answer, left}, timeout=every, return_when=asyncio.FIRST_COMPLETED)
            gone = left.done()
        finally:
            left.cancel()
            if not self._answer.done():
                self._answer.cancel()
        if not gone:
            await self._give(scope, receive, send)
        elif self._answer.done() and not self._answer.cancelled() and self._answer.exception() is None:
            Relay(self._session, self._answer.result(), {}).abandon()

    async def _give(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            answer = self._answer.result()
        except ApiError as error:
            await send({"type": "http.response.body", "body": event(error.body() | error.extra), "more_body": False})
            return

        async def rest(message: Message) -> None:
            if message["type"] != "http.response.start":  # it has gone out
                await send(message)

        await Relay(self._session, answer, {})(scope, receive, rest)
