"""An upstream's answer on its way to the client as it comes: only the model's name is made the gateway's own.

Its usage is read on the way, from the whole answer or from the last event that says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from roster.gateway import prices, strict_json
from roster.gateway.legs import Leg
from roster.gateway.passing import Passing
from roster.gateway.prices import Usage
from roster.gateway.sse import NotEvents, read_events
from roster.gateway.upstreams import LARGEST_ANSWER

_TOLD = ("content-type", "x-request-id", "retry-after", "openai-processing-ms")
_SPACES = 8
"""Between a key, its colon and its value at most, in JSON that people send."""


class Passed(StreamingResponse):
    """The response.

    Args:
        passing: the request.
        leg: the call that gave it.
        response: the upstream's.
    """

    def __init__(self, passing: Passing, leg: Leg, response: aiohttp.ClientResponse) -> None:
        self._passing, self._leg, self._response = passing, leg, response
        self._seen = bytearray()
        self._outcome = "disconnected"
        headers = {key: value for key in _TOLD if (value := response.headers.get(key)) is not None}
        target = leg.target
        parts = self._parts()
        if target.model.name not in (None, target.name):
            parts = renamed(parts, str(target.model.name), target.name)
        super().__init__(parts, response.status, headers | {"x-roster-id": passing.id, "x-roster-model": target.name})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it; whatever ends it, the upstream is let go and the call is paid."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._passing.gateway.spawn(self._end())

    async def _parts(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._response.content.iter_any():
                if len(self._seen) + len(part) <= LARGEST_ANSWER:
                    self._seen += part
                yield part
            self._outcome = "answered"
        except (aiohttp.ClientError, TimeoutError):
            self._outcome = "stopped"
            raise

    async def _end(self) -> None:
        sent, breaker = self._passing.sent, self._leg.target.breaker
        {"stopped": breaker.failed, "disconnected": breaker.abandoned}.get(self._outcome, breaker.succeeded)()
        most = self._leg.target.model.max_output if sent.most is None else sent.most
        bound = Usage(sent.bound, min(len(self._seen), most), "bound")
        usage = await usage_of(bytes(self._seen), self._response.content_type) or bound
        self._response.close()
        self._passing.end(self._leg, self._outcome, usage)
        await self._passing.finish(self._outcome)


async def renamed(parts: AsyncIterator[bytes], theirs: str, ours: str) -> AsyncIterator[bytes]:
    """A JSON text, or events of it, whose fields `model` that say one name say another; all else byte for byte.

    Within a JSON string every quote has a backslash, so that what looks like the field is it.
    """
    name = re.escape(json.dumps(theirs).encode())
    field = re.compile(rb'("model"\s{0,%d}:\s{0,%d})%s' % (_SPACES, _SPACES, name))
    longest, new = len(name) + 9 + 2 * _SPACES, json.dumps(ours).encode()
    rest = b""
    async for part in parts:
        rest = field.sub(lambda found: found.group(1) + new, rest + part)
        # A field may go on in the next part, but not beyond the end of an event's line.
        ready = len(rest) if rest.endswith(b"\n") else max(0, len(rest) - longest)
        if ready:
            yield rest[:ready]
        rest = rest[ready:]
    if rest:
        yield rest


async def usage_of(raw: bytes, kind: str) -> Usage | None:
    """What an answer, or the last event of a stream that says so, tells of its tokens."""
    told: list[Any] = []
    try:
        if kind == "text/event-stream":
            told = [json.loads(event) async for event in read_events(_once(raw)) if '"usage"' in event]
        else:
            told = [strict_json.loads(raw)]
    except (NotEvents, ValueError):
        pass
    for each in reversed(told):
        inner = each.get("response", each) if isinstance(each, dict) else {}
        usage = inner.get("usage") if isinstance(inner, dict) else None
        if isinstance(usage, dict):
            read = usage.get("input_tokens", usage.get("prompt_tokens"))
            return prices.read_usage(
                {
                    "prompt_tokens": read,
                    "completion_tokens": usage.get("output_tokens", 0),
                    "prompt_tokens_details": usage.get("input_tokens_details"),
                    "completion_tokens_details": usage.get("output_tokens_details"),
                }
            )
    return None


async def _once(raw: bytes) -> AsyncIterator[bytes]:
    yield raw
