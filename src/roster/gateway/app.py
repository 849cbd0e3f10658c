"""The HTTP face of a gateway: OpenAI's endpoints, a decision without a call, feedback, health, metrics."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from roster.gateway import admin, strict_json
from roster.gateway.endpoints import chat, completions, feedback, model, models, route
from roster.gateway.errors import ApiError, AsciiJson, ErrorEnvelope
from roster.gateway.gateway import Gateway
from roster.gateway.guard import Guard
from roster.gateway.ledger import unavailable
from roster.gateway.openapi import describe
from roster.gateway.passthrough import embeddings, responses
from roster.gateway.store import StoreAway

log = logging.getLogger("roster.gateway")


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


def create_app(gateway: Gateway) -> FastAPI:
    """The application that serves a gateway; it starts and stops the gateway."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await gateway.start()
        try:
            yield
        finally:
            await gateway.stop()

    app = FastAPI(title="roster gateway", version="1", lifespan=lifespan, redirect_slashes=False, redoc_url=None)
    app.state.gateway = gateway
    app.router.route_class = StrictRoute
    app.add_middleware(Guard, gateway=gateway)
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)
    errors: dict[int | str, dict[str, Any]] = {"4XX": {"model": ErrorEnvelope}, "5XX": {"model": ErrorEnvelope}}
    app.include_router(admin.router)
    for path, method, endpoint in (
        ("/v1/chat/completions", "POST", chat),
        ("/v1/completions", "POST", completions),
        ("/v1/embeddings", "POST", embeddings),
        ("/v1/responses", "POST", responses),
        ("/v1/models", "GET", models),
        ("/v1/models/{name:path}", "GET", model),
        ("/v1/route", "POST", route),
        ("/v1/feedback", "POST", feedback),
    ):
        app.add_api_route(path, endpoint, methods=[method], responses=errors)
    app.add_api_route("/health", _health, methods=["GET"])
    app.add_api_route("/metrics", _metrics, methods=["GET"], response_class=Response)
    heads: dict[str, Callable[..., Any]] = {"/v1/models": models, "/health": _health, "/metrics": _metrics}
    for path, answer in heads.items():
        app.add_api_route(path, answer, methods=["HEAD"], include_in_schema=False)
    origins = gateway.runtime.config.listen.cors
    if origins:  # before the guard: a browser's preflight carries no key
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["x-roster-id", "x-roster-model", "x-roster-policy", "x-roster-cost", "retry-after"],
        )
    app.openapi = lambda: describe(app, bool(gateway.runtime.config.keys))  # type: ignore[method-assign]
    return app


async def _health() -> dict[str, str]:
    """Whether the gateway runs; it says nothing about upstreams."""
    return {"status": "ok"}


async def _metrics(request: Request) -> Response:
    """Prometheus' text format."""
    return Response(request.app.state.gateway.scrape(), media_type=CONTENT_TYPE_LATEST)


async def _api_error(request: Request, error: Exception) -> AsciiJson:
    assert isinstance(error, ApiError)
    return AsciiJson(error.body() | error.extra, error.status, error.headers)


async def _away(request: Request, error: Exception) -> AsciiJson:
    return await _api_error(request, unavailable())


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
    return AsciiJson(ApiError(500, "The gateway made a mistake.", "internal_error", kind="server_error").body(), 500)


_HANDLERS: dict[type[Exception], Any] = {
    ApiError: _api_error,
    StoreAway: _away,
    RequestValidationError: _invalid,
    HTTPException: _http,
    Exception: _unexpected,
}
