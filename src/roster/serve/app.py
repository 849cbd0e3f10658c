"""The HTTP face of `roster serve`: OpenAI's endpoints, who was on duty, health, metrics, and a page for people.

Strict JSON, errors and bounds are the gateway's (`roster.gateway.http`).
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request as PlainRequest
from starlette.responses import StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from roster.gateway.errors import ApiError, AsciiJson, ErrorEnvelope
from roster.gateway.http import HANDLERS, Counting, StrictRoute, leaves, replayed, whole_body
from roster.serve.answers import Server
from roster.serve.asked import ServedChat, ServedText, TraceRequest
from roster.serve.choices import Choices
from roster.serve.engine import Full
from roster.serve.mixture import AUTO, BASE
from roster.serve.tracing import traced

_PAGE = Path(__file__).with_name("page.html")
_PATHS = ("/", "/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/trace", "/health", "/metrics")


def create_app(server: Server, api_key: str | None = None, request_bytes: int = 4 * 1024 * 1024) -> FastAPI:
    """The application that serves a mixture; it starts and stops the engine.

    Args:
        server: the mixture and its engine.
        api_key: that requests must carry as a bearer token; None: everybody may ask.
        request_bytes: a larger body is refused.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        server.engine.start()
        try:
            yield
        finally:
            await asyncio.to_thread(server.engine.stop)

    app = FastAPI(title="roster serve", version="1", lifespan=lifespan, redirect_slashes=False, redoc_url=None)
    app.state.server = server
    app.router.route_class = StrictRoute
    app.add_middleware(Door, server=server, api_key=api_key, request_bytes=request_bytes)
    for kind, handler in HANDLERS.items():
        app.add_exception_handler(kind, handler)
    errors: dict[int | str, dict[str, Any]] = {"4XX": {"model": ErrorEnvelope}, "5XX": {"model": ErrorEnvelope}}
    for path, method, endpoint in (
        ("/v1/chat/completions", "POST", chat),
        ("/v1/completions", "POST", completions),
        ("/v1/models", "GET", models),
        ("/v1/models/{name:path}", "GET", model),
        ("/v1/trace", "POST", trace),
        ("/health", "GET", health),
    ):
        app.add_api_route(path, endpoint, methods=[method], responses=errors)
    app.add_api_route("/metrics", metrics, methods=["GET"], response_class=Response)
    app.add_api_route("/", page, methods=["GET"], response_class=HTMLResponse)
    return app


class Door(Counting):
    """Middleware: paths under /v1 need the key, where there is one; bodies are bounded; everything is counted."""

    def __init__(self, app: ASGIApp, server: Server, api_key: str | None, request_bytes: int) -> None:
        super().__init__(app)
        self._server, self._limit = server, request_bytes
        self._wanted = None if api_key is None else f"Bearer {api_key}".encode()

    def counted(self, scope: Scope, status: int) -> None:
        """By path and status."""
        path = scope["path"] if scope["path"] in _PATHS else "other"
        self._server.metrics.requests.labels(path, str(status)).inc()

    async def admitted(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `Counting`."""
        request = PlainRequest(scope)
        try:
            self._check_key(scope["path"], request.headers.get("authorization", ""))
            body = await whole_body(request, receive, self._limit)
        except ApiError as error:
            response = AsciiJson(error.body(), error.status, error.headers | {"connection": "close"})
            await response(scope, receive, send)
            return
        if body is not None:
            await self.app(scope, replayed(body, receive), send)

    def _check_key(self, path: str, presented: str) -> None:
        if self._wanted is None or not path.startswith("/v1"):
            return
        if not hmac.compare_digest(presented.encode("utf-8", "surrogateescape"), self._wanted):
            raise ApiError(401, "The API key is missing or wrong.", "invalid_api_key")


async def chat(request: Request, body: ServedChat) -> Response:
    """An answer to a chat, by the adapter that the model names, by the base, or by whom the router puts on duty."""
    return await _generate(request, body)


async def completions(request: Request, body: ServedText) -> Response:
    """A text that goes on from the prompt, which is read as it stands."""
    return await _generate(request, body)


async def _generate(request: Request, body: ServedChat | ServedText) -> Response:
    server: Server = request.app.state.server
    asked = server.mixture.read(body)
    choices = Choices(server, asked)
    headers = {"x-roster-id": choices.id}
    if asked.stream:
        known = headers | {"cache-control": "no-cache"}
        return StreamingResponse(choices.stream(), media_type="text/event-stream", headers=known)
    whole = asyncio.create_task(choices.whole())
    gone = asyncio.create_task(leaves(request.receive))
    try:
        await asyncio.wait({whole, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not whole.done():
            return Response(status_code=499)  # nobody reads it
        return AsciiJson(whole.result(), headers=headers)
    finally:
        whole.cancel()
        gone.cancel()
        choices.close()


async def models(request: Request) -> dict[str, Any]:
    """All names that a request may give as its model."""
    server: Server = request.app.state.server
    return {"object": "list", "data": [_described(server, name) for name in server.mixture.names]}


async def model(request: Request, name: str) -> dict[str, Any]:
    """One of those names."""
    server: Server = request.app.state.server
    server.mixture.gates(name)
    return _described(server, name)


def _described(server: Server, name: str) -> dict[str, Any]:
    mixture = server.mixture.mixture
    about: dict[str, Any] = {"kind": {AUTO: "router", BASE: "base"}.get(name, "adapter")}
    if name == AUTO:
        about["recipe"] = mixture.recipe
    card = getattr(mixture.adapters.get(name), "card", None)
    if card is not None and card.description:
        about["description"] = card.description
    return {"id": name, "object": "model", "created": 0, "owned_by": "roster", "roster": about}


async def trace(request: Request, body: TraceRequest) -> dict[str, Any]:
    """Who was on duty for each token of a prompt and its answer: the weights' mean over layers."""
    server: Server = request.app.state.server
    loop = asyncio.get_running_loop()
    told: asyncio.Future[dict[str, Any]] = loop.create_future()
    gates_E = server.mixture.gates(body.model)
    ids = server.mixture.ids(body.prompt, "prompt")
    answer_ids = server.mixture.answer_ids(body.answer, len(ids))

    def work(model: Any) -> None:
        try:
            result = traced(model, body.prompt, ids, answer_ids, gates_E)
        except Exception as error:
            loop.call_soon_threadsafe(_settle, told, None, error)
        else:
            loop.call_soon_threadsafe(_settle, told, result, None)

    try:
        server.engine.call(work)
    except Full:
        raise ApiError(503, "As many requests wait as may.", "queue_full", "server_error", retry_after=1.0) from None
    return await told


def _settle(told: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if told.done():  # the client has gone
        return
    if error is None:
        told.set_result(result)
    else:
        told.set_exception(error)


async def health() -> dict[str, str]:
    """Whether the server runs."""
    return {"status": "ok"}


async def metrics(request: Request) -> Response:
    """Prometheus' text format."""
    server: Server = request.app.state.server
    return Response(server.metrics.text(), media_type=CONTENT_TYPE_LATEST)


async def page() -> HTMLResponse:
    """A page to try the mixture on."""
    return HTMLResponse(_PAGE.read_text(encoding="utf-8"))
