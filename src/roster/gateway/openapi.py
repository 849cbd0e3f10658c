"""The gateway's OpenAPI description: FastAPI's, corrected where it would not be true."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi


def describe(app: FastAPI, with_keys: bool) -> dict[str, Any]:
    """The description that the gateway keeps to.

    Args:
        app: with all its routes.
        with_keys: whether paths under /v1 need an API key.
    """
    schema = get_openapi(title=app.title, version=app.version, description=__doc__, routes=app.routes)
    for path, methods in schema["paths"].items():
        for operation in methods.values():
            # Bodies that do not fit are answered with 400 in OpenAI's format, not with FastAPI's 422.
            operation["responses"].pop("422", None)
            if path in ("/v1/chat/completions", "/v1/completions"):
                operation["responses"]["200"] = _generated()
            if path in ("/v1/embeddings", "/v1/responses"):
                operation["responses"]["200"] = {"description": "What the upstream answers."}
            if path == "/metrics":
                operation["responses"]["200"]["content"] = {"text/plain": {"schema": {"type": "string"}}}
            if with_keys and path.startswith("/v1"):
                operation["security"] = [{"key": []}]
    if with_keys:
        schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for unused in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(unused, None)
    return schema


def _generated() -> dict[str, Any]:
    """An answer: one object, or a stream of events."""
    whole = {
        "type": "object",
        "required": ["id", "model", "choices", "usage", "roster"],
        "properties": {
            "id": {"type": "string"},
            "model": {"type": "string"},
            "choices": {"type": "array", "items": {"type": "object"}, "minItems": 1},
            "usage": {"type": "object"},
            "roster": {"type": "object"},
        },
    }
    content = {"application/json": {"schema": whole}, "text/event-stream": {}}
    return {
        "description": "The answer, with the field `roster`: who gave it, why, and what it cost.",
        "content": content,
    }
