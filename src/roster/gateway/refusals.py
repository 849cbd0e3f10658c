"""What an upstream's refusal means: its code, field and details, and whether another model may do better."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any

from roster.gateway import strict_json
from roster.gateway.errors import ApiError

CLIENTS_FAULT = (400, 413, 422)
"""Statuses that blame the request."""
_WORD = re.compile(r"[\w.\[\]-]{1,128}")
_TOO_LONG = re.compile(
    r"context.?(length|window|size)|too many tokens|(prompt|input|request) (is|was) too (long|large)"
    r"|exceeds? .{0,40}(token|context)|reduce the length",
    re.IGNORECASE,
)
_SORT = r"(image|audio|video|vision|file|tool|function|modalit|multimodal)"
_REFUSED_SORT = re.compile(
    rf"\b{_SORT}\w*\b.{{0,60}}(not support|unsupported|not enabled|not accept)"
    rf"|(not support|unsupported|doesn.t support|not accept|cannot (read|process)|not a) .{{0,40}}{_SORT}"
    r"|tool choice requires",
    re.IGNORECASE,
)


def refusal(name: str, status: int, words: bytes, redacted: Callable[[str], str]) -> ApiError:
    """The error that a client is told.

    Args:
        name: of the model.
        status: the upstream's.
        words: the body that came with it.
        redacted: takes addresses, keys and names out of a text.
    """
    told: Any = {}
    with suppress(json.JSONDecodeError):
        told = strict_json.loads(words)
    inner = told.get("error", told) if isinstance(told, dict) else {}
    inner = inner if isinstance(inner, dict) else {"message": inner}
    details = _details(inner.get("detail"), redacted)
    found = inner.get("message") or inner.get("detail")
    message = redacted(found) if isinstance(found, str) else "; ".join(_sentence(each) for each in details)
    code = _word(inner.get("code"))
    too_long = code == "context_length_exceeded" or bool(_TOO_LONG.search(message))
    wrong_sort = not too_long and (code == "unsupported_modality" or bool(_REFUSED_SORT.search(message)))
    default = "unsupported_modality" if wrong_sort else "refused_by_model"
    error = ApiError(
        status,
        f"The model {name!r} refused the request. {message}".strip(),
        "context_length_exceeded" if too_long else code or default,
        _word(inner.get("type")) or "invalid_request_error",
        _word(inner.get("param")),
    )
    error.elsewhere = too_long or wrong_sort
    if details:
        error.extra = {"detail": details}
    return error


def wait_of(headers: Mapping[str, str]) -> float | None:
    """The seconds that an upstream's Retry-After asks for."""
    told = headers.get("retry-after", "")
    with suppress(ValueError, OverflowError):
        return min(86_400.0, max(0.0, float(told)))
    with suppress(ValueError, TypeError):
        return min(86_400.0, max(0.0, parsedate_to_datetime(told).timestamp() - time.time()))
    return None


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) and _WORD.fullmatch(value) else None


def _details(given: Any, redacted: Callable[[str], str]) -> list[dict[str, Any]]:
    """What a validating server says of each field, without the values."""
    each = [one for one in given if isinstance(one, dict)] if isinstance(given, list) else []
    return [
        {
            "loc": [part if isinstance(part, int) else redacted(str(part)) for part in _list(one.get("loc"))],
            "msg": redacted(str(one.get("msg", ""))),
            "type": redacted(str(one.get("type", ""))),
        }
        for one in each[:20]
    ]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _sentence(detail: dict[str, Any]) -> str:
    return f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}"
