"""The body that is sent to one model: the client's request with the model's own name, one limit and no refused fields.

A body that nothing changes goes out as the bytes that came in. Addresses and headers are in `outbound.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from yarl import URL

from roster.gateway import strict_json
from roster.gateway.config import LIMIT_FIELDS, LimitField, Model, Upstream

_ALWAYS_LIMITS = frozenset({*LIMIT_FIELDS, "max_output_tokens"})
"""Fields that budgets rely on, so `drop` does not reach them."""
_NEW_FIELD = ("api.openai.com", ".openai.azure.com")
"""Hosts whose newer models refuse `max_tokens` in chats."""


def limit_field(model: Model, upstream: Upstream, chat: bool) -> LimitField:
    """The one field in which a model is told the most tokens of an answer: its own, its server's, or the provider's."""
    if not chat:
        return "max_tokens"  # text completions know no other
    chosen = model.limit_field or upstream.limit_field
    if chosen is not None:
        return chosen
    host = URL(upstream.url).host or ""
    return "max_completion_tokens" if host.endswith(_NEW_FIELD) else "max_tokens"


def limited(body: dict[str, Any], field: LimitField, limit: int | None) -> dict[str, Any]:
    """A request that says its limit once, in `field`; the same object where it does so already."""
    told = {name: body[name] for name in LIMIT_FIELDS if name in body}
    if told == ({} if limit is None else {field: limit}):
        return body
    rest = {name: value for name, value in body.items() if name not in told}
    return rest if limit is None else rest | {field: limit}


def written(body: Mapping[str, Any], model: str, upstream: Upstream, raw: bytes | None = None) -> bytes:
    """A body as bytes, under the upstream's name for the model and without the fields that it refuses.

    Args:
        body: the request.
        model: the upstream's name for it.
        upstream: where it goes.
        raw: the bytes that `body` was read from; sent as they are where nothing changes.
    """
    dropped = set(upstream.drop) - _ALWAYS_LIMITS
    if raw is not None and body.get("model") == model and not dropped & body.keys():
        return raw
    return strict_json.dumps({key: value for key, value in body.items() if key not in dropped} | {"model": model})
