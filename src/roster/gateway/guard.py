"""Before a request is read: its size, its key, a count of how it ended. Plain ASGI, so that streams pass through."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from roster.gateway.admin import check_admin
from roster.gateway.errors import ApiError, AsciiJson
from roster.gateway.http import Counting, replayed, whole_body

if TYPE_CHECKING:
    from roster.gateway.gateway import Gateway

PATHS = (
    "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/models", "/v1/route",
    "/v1/feedback", "/health", "/metrics", "/openapi.json", "/docs",
)  # fmt: skip


class Guard(Counting):
    """Middleware: `app` sees only requests that are small enough and whose caller is known.

    Paths under /v1 need a key where the config has keys. `/health` and `/metrics` do not. /admin needs the admin's.
    """

    def __init__(self, app: ASGIApp, gateway: Gateway) -> None:
        super().__init__(app)
        self.gateway = gateway

    def counted(self, scope: Scope, status: int) -> None:
        """By path and status."""
        path = scope["path"] if scope["path"] in PATHS else "/admin" if _is_admin(scope) else "other"
        self.gateway.metrics.requests.labels(path, str(status)).inc()

    async def admitted(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `Counting`."""
        request = Request(scope)
        try:
            state = scope.setdefault("state", {})
            authorization = request.headers.get("authorization")
            if scope["path"].startswith("/v1"):
                state["caller"] = self.gateway.keyring.caller(authorization)
            if scope["path"].startswith("/admin"):
                check_admin(self.gateway.runtime.config.access.admin, scope["method"], authorization)
            limit = self.gateway.runtime.config.limits.request_bytes
            body = await whole_body(request, receive, limit)
        except ApiError as error:
            response = AsciiJson(error.body(), error.status, error.headers | {"connection": "close"})
            await response(scope, receive, send)
            return
        if body is None:
            return
        await self.app(scope, replayed(body, receive), send)


def _is_admin(scope: Scope) -> bool:
    return bool(scope["path"].startswith("/admin"))
