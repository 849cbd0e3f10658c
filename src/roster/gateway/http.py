"""What every server of roster does the same way: strict JSON in, OpenAI's errors out, bodies read whole within bounds.

The gateway and `roster serve` are made of these; what they answer is their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request as PlainRequest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from roster.gateway import strict_json
from roster.gateway.errors import ApiError, AsciiJson

BODY_SECONDS = 60.0
"""Within which a request's body must have come."""


class StrictRequest(Request):
    """A request whose JSON is the standard's."""

    async def json(self) -> Any:
        """The body's value."""
        if not hasattr(self, "_value"):
            self._value = strict_json.loads(await self.body())
        return self._value


class StrictRoute(APIRoute):
    """Gives endpoints a `StrictRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Called once per route by FastAPI."""
        handle = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            return await handle(StrictRequest(request.scope, request.receive))

        return strictly


class Counting:
    """Middleware that lets HTTP requests through `admitted` and tells `counted` each one's status."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def admitted(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers the request, or hands it on to `app`."""
        raise NotImplementedError

    def counted(self, scope: Scope, status: int) -> None:
        """Told when a request is over; 500 where it had no answer."""
        raise NotImplementedError

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.admitted(scope, receive, noted)
        finally:
            self.counted(scope, status)


async def whole_body(request: PlainRequest, receive: Receive, limit: int) -> bytes | None:
    """The whole body; None when the client went away before its end.

    Raises:
        ApiError: it is larger than `limit` bytes, or does not come to its end in time.
    """
    too_large = ApiError(413, f"The request is larger than {limit} bytes.", "request_too_large")
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > limit:
        raise too_large
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > limit:
                    raise too_large
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        raise ApiError(408, "The request did not come to its end in time.", "request_timeout") from None


def replayed(body: bytes, receive: Receive) -> Receive:
    """The body in one message, then whatever the client does next."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def leaves(receive: Receive) -> None:
    """Returns when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def api_error(request: Request, error: Exception) -> AsciiJson:
    """An `ApiError` as a response."""
    assert isinstance(error, ApiError)
    return AsciiJson(error.body() | error.extra, error.status, error.headers)


async def _invalid(request: Request, error: Exception) -> AsciiJson:
    """The first thing that is wrong with a body, in words that do not repeat the body."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    at = ".".join(str(part) for part in first["loc"][1:])
    if first["type"] == "json_invalid":
        at, message = "", "The request's body is not JSON."
    elif first["type"] == "missing" and not at:
        message = "The request has no body, or it is not declared as application/json."
    else:
        message = f"{at or 'The body'}: {first['msg'].removeprefix('Value error, ')}"
    return AsciiJson(ApiError(400, message, "invalid_request", param=at or None).body(), 400)


async def _http(request: Request, error: Exception) -> AsciiJson:
    """A path or method that does not exist, or a body that FastAPI could not read."""
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
    body = ApiError(error.status_code, str(error.detail), code).body()
    return AsciiJson(body, error.status_code, error.headers)


async def _unexpected(request: Request, error: Exception) -> AsciiJson:
    return AsciiJson(ApiError(500, "The server made a mistake.", "internal_error", kind="server_error").body(), 500)


HANDLERS: dict[type[Exception], Any] = {
    ApiError: api_error,
    RequestValidationError: _invalid,
    HTTPException: _http,
    Exception: _unexpected,
}
"""By the class of what was raised."""
