"""Server-sent events, read from a stream of bytes that may be anything, and written."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import AsyncIterator
from typing import Any

LARGEST_EVENT = 8 * 1024 * 1024
"""Bytes; whoever sends more without ending the event does not speak this protocol."""
DONE = "[DONE]"
KEEP_ALIVE = b": keep-alive\n\n"
"""A comment, which clients ignore."""
_FIELD = re.compile(r"[A-Za-z][\w-]*(:|$)|:|$")
"""How a line of the protocol begins; fields that it does not know are ignored, as it demands."""


class NotEvents(ValueError):
    """The bytes are not server-sent events."""


async def read_events(chunks: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """The data of each event, in order.

    Raises:
        NotEvents: a line that is none of the protocol's, not UTF-8, or without end.
    """
    rest, data, size, begun = b"", [], 0, False
    async for chunk in chunks:
        rest += chunk
        if not begun and len(rest) >= len(codecs.BOM_UTF8):
            rest, begun = rest.removeprefix(codecs.BOM_UTF8), True
        size += len(chunk)
        if size > LARGEST_EVENT:
            raise NotEvents("an event without end")
        *lines, rest = rest.split(b"\n")
        for raw in lines:
            line = _text(raw).removesuffix("\r")
            if line:
                data += _data(line)
            elif data:
                yield "\n".join(data)
                data, size = [], 0
    # An end without the empty line is common enough; half a line is not an event.
    if rest.strip():
        data += _data(_text(rest).strip())
    if data:
        yield "\n".join(data)


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise NotEvents("not UTF-8") from None


def _data(line: str) -> list[str]:
    if not _FIELD.match(line):
        raise NotEvents("not server-sent events")
    field, _, value = line.partition(":")
    return [value.removeprefix(" ")] if field == "data" else []


def event(data: dict[str, Any] | str) -> bytes:
    """One event as bytes."""
    return f"data: {data if isinstance(data, str) else json.dumps(data, separators=(',', ':'))}\n\n".encode()
