"""What goes wrong, in OpenAI's error format: `{"error": {"message", "type", "param", "code"}}`.

Messages are written for the client who reads them: they name models by the gateway's own names and say nothing about
upstreams' addresses or keys.
"""

from __future__ import annotations

import math
from typing import Any

from pydantic import BaseModel
from starlette.responses import JSONResponse

from roster.gateway import strict_json


class AsciiJson(JSONResponse):
    """A JSON response that can say whatever an upstream or a client said, lone surrogates included."""

    def render(self, content: Any) -> bytes:
        """The body."""
        return strict_json.dumps(content)


class ErrorBody(BaseModel):
    """The inner object of an error."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorEnvelope(BaseModel):
    """What every response with a status of 400 or more carries."""

    error: ErrorBody


class ApiError(Exception):
    """An error that the client is told.

    Args:
        status: the HTTP status.
        message: one sentence for people.
        code: a fixed word for programs, such as model_not_found.
        kind: OpenAI's `type`.
        param: the field of the request that is to blame.
        retry_after: seconds after which another try makes sense.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        kind: str = "invalid_request_error",
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.kind, self.param = status, message, code, kind, param
        self.retry_after = retry_after
        self.authenticate = "Bearer"
        """How, where the status is 401."""
        self.extra: dict[str, Any] = {}
        """What stands beside `error` in the body: the record of attempts."""
        self.elsewhere = False
        """Whether another model may take the same request."""

    def body(self) -> dict[str, Any]:
        """The JSON object to send."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """What goes beside the body."""
        if self.status == 401:
            return {"www-authenticate": self.authenticate}
        return {} if self.retry_after is None else {"retry-after": str(max(1, math.ceil(self.retry_after)))}


def rate_limited(wait: float | None) -> ApiError:
    """Every model that was asked has had enough for now."""
    message = "The model's rate limit is reached; try again later."
    return ApiError(429, message, "rate_limit_exceeded", "rate_limit_error", retry_after=1.0 if wait is None else wait)


def invalid(message: str, param: str | None = None) -> ApiError:
    """The request itself is wrong."""
    return ApiError(400, message, "invalid_request", param=param)
