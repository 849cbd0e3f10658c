"""The HTTP face of a gateway: OpenAI's endpoints, a decision without a call, feedback, health, metrics."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.middleware.cors import CORSMiddleware

from roster.gateway import admin
from roster.gateway.endpoints import chat, completions, feedback, model, models, route
from roster.gateway.errors import AsciiJson, ErrorEnvelope
from roster.gateway.gateway import Gateway
from roster.gateway.guard import Guard
from roster.gateway.http import HANDLERS, StrictRoute, api_error
from roster.gateway.ledger import unavailable
from roster.gateway.openapi import describe
from roster.gateway.passthrough import embeddings, responses
from roster.gateway.store import StoreAway


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
    for kind, handler in (HANDLERS | {StoreAway: _away}).items():
        app.add_exception_handler(kind, handler)
    errors: dict[int | str, dict[str, Any]] = {"4XX": {"model": ErrorEnvelope}, "5XX": {"model": ErrorEnvelope}}
    # Routes are tried in their order: what is asked most comes first.
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
    app.include_router(admin.router)
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
    app.openapi = lambda: describe(app, bool(gateway.runtime.config.access.keys))  # type: ignore[method-assign]
    return app


async def _health() -> dict[str, str]:
    """Whether the gateway runs; it says nothing about upstreams."""
    return {"status": "ok"}


async def _metrics(request: Request) -> Response:
    """Prometheus' text format."""
    return Response(request.app.state.gateway.scrape(), media_type=CONTENT_TYPE_LATEST)


async def _away(request: Request, error: Exception) -> AsciiJson:
    return await api_error(request, unavailable())
