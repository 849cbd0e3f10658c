"""Calling upstreams: one connection pool, one taxonomy of what fails, and nothing of theirs in a client's error."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp
from yarl import URL

from roster.gateway import strict_json
from roster.gateway.breaker import Breaker
from roster.gateway.config import Model, Upstream
from roster.gateway.outbound import endpoint, proxy, told_headers
from roster.gateway.outbound import headers as outbound_headers
from roster.gateway.outgoing import written
from roster.gateway.refusals import CLIENTS_FAULT, refusal, wait_of
from roster.gateway.requests import Asked, Kind
from roster.gateway.sse import DONE, NotEvents, read_events

LARGEST_ANSWER = 64 * 1024 * 1024
"""Bytes."""
_PLAIN_KINDS = {401: "credentials", 403: "credentials", 404: "unknown_model", 429: "rate_limited", 408: "timeout"}


class Failure(Exception):
    """An upstream failed; another model may be asked.

    Args:
        kind: a fixed word: connect, timeout, status, credentials, unknown_model, rate_limited, garbage, stopped or
            reported.
        retry_after: seconds after which the upstream wants to be asked again, where it says so.
    """

    def __init__(self, kind: str, retry_after: float | None = None) -> None:
        super().__init__(kind)
        self.kind, self.retry_after = kind, retry_after


@dataclass(frozen=True)
class Target:
    """A model and the way to it.

    Attributes:
        name: what clients and policies call it.
        model: its entry in the config.
        upstream: its server's entry, with the API key of this way.
        breaker: of this way.
        place: the server's name in the config.
        way: what tells it from the other ways to the model.
    """

    name: str
    model: Model
    upstream: Upstream
    breaker: Breaker
    place: str
    way: str

    def body(self, body: dict[str, Any], raw: bytes | None = None) -> bytes:
        """A request's body as this upstream takes it; `raw`: what it was read from."""
        return written(body, self.model.name or self.name, self.upstream, raw)


class Client:
    """All connections of a gateway to all upstreams."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    @property
    def _http(self) -> aiohttp.ClientSession:
        """Made at first use, because it belongs to the event loop that runs then."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # Servers close idle connections after 5 s and more; a call must not meet one that is being closed.
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=4.0),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"content-type": "application/json", "accept-encoding": "identity", "user-agent": "roster"},
            )
        return self._session

    async def close(self) -> None:
        """Ends all connections."""
        if self._session is not None:
            await self._session.close()

    async def probe(
        self, upstream: Upstream, method: str, path: str, body: dict[str, Any] | None = None
    ) -> tuple[int, bytes] | None:
        """Asks something that costs nothing.

        Returns:
            The status and the body; None when nothing answers.
        """
        patience = max(upstream.timeouts.connect, 1.0)
        try:
            async with self._http.request(
                method, endpoint(upstream, path), headers=outbound_headers(upstream), proxy=proxy(upstream), json=body,
                timeout=aiohttp.ClientTimeout(total=2 * patience, connect=patience), allow_redirects=False,
            ) as response:  # fmt: skip
                return response.status, await _read(response)
        except (aiohttp.ClientError, TimeoutError, ValueError, Failure):
            return None

    async def complete(
        self, target: Target, asked: Asked, body: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """A whole answer, and the upstream's headers for the client.

        Raises:
            Failure: there is none.
            ApiError: the upstream blames the request.
        """
        try:
            async with asyncio.timeout(target.upstream.timeouts.total):
                response = await self.open(target, asked.path, body, raw=asked.raw_of(body), passed=asked.passed)
                async with response:
                    raw = await _read(response)
        except TimeoutError:
            raise Failure("timeout") from None
        except aiohttp.ClientError:
            raise Failure("stopped") from None
        return _answer(raw, asked.kind), told_headers(response)

    async def stream(self, target: Target, asked: Asked, body: dict[str, Any]) -> Stream:
        """An answer whose first chunk has come.

        Raises:
            Failure: nothing came that could be passed on.
            ApiError: the upstream blames the request.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + target.upstream.timeouts.total
        response = None
        try:
            async with asyncio.timeout(min(target.upstream.timeouts.first_token, target.upstream.timeouts.total)):
                response = await self.open(target, asked.path, body, raw=asked.raw_of(body), passed=asked.passed)
                stream = Stream(response, deadline, target.upstream.timeouts.gap)
                await stream.begin()
                return stream
        except BaseException as error:
            if response is not None:
                response.close()
            if isinstance(error, TimeoutError):
                raise Failure("timeout") from None
            raise

    async def open(
        self,
        target: Target,
        path: str,
        body: dict[str, Any],
        total: float | None = None,
        raw: bytes | None = None,
        passed: dict[str, str] | None = None,
    ) -> aiohttp.ClientResponse:
        """A response that is none of an error, whose body has not been read; whoever has it closes it.

        Args:
            target: whom to ask.
            path: under the upstream's URL.
            body: of the request, before it is made the upstream's own.
            total: seconds until its end must have come; None: the caller sees to that.
            raw: the bytes that `body` was read from, where it was not changed since.
            passed: headers of the client that go along.

        Raises:
            Failure: there is none.
            ApiError: the upstream blames the request.
        """
        try:
            response = await self._http.post(
                endpoint(target.upstream, path),
                data=target.body(body, raw),
                headers=(passed or {}) | outbound_headers(target.upstream),
                proxy=proxy(target.upstream),
                timeout=aiohttp.ClientTimeout(total=total, sock_connect=target.upstream.timeouts.connect),
                allow_redirects=False,
            )
        except (aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError, aiohttp.ServerTimeoutError):
            raise Failure("connect") from None
        except aiohttp.ClientError:
            raise Failure("stopped") from None
        if response.status != 200:
            async with response:
                status, words = response.status, b""
                if status in CLIENTS_FAULT:
                    with suppress(aiohttp.ClientError, Failure, TimeoutError):
                        async with asyncio.timeout(target.upstream.timeouts.connect):
                            words = await _read(response)
                    raise refusal(target.name, status, words, partial(_redacted, target))
                raise Failure(_PLAIN_KINDS.get(status, "status"), wait_of(response.headers))
        return response


class Stream:
    """The chunks of a streamed answer; whoever has one closes it.

    Attributes:
        said_done: whether the upstream ended with its [DONE].
        headers: of the upstream, for the client.
    """

    def __init__(self, response: aiohttp.ClientResponse, deadline: float, gap: float) -> None:
        self._response, self._deadline, self._gap = response, deadline, gap
        self._events = read_events(self._bytes())
        self._first: dict[str, Any] | None = None
        self.said_done = False
        self.headers = told_headers(response)

    async def begin(self) -> None:
        """Waits for the first chunk."""
        self._first = await self._next()
        if self._first is None:
            raise Failure("stopped")

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """All chunks, checked as far as the gateway reads them.

        Raises:
            Failure: what comes is no chunk, or nothing comes any more.
        """
        chunk = self._first
        while chunk is not None:
            yield chunk
            try:
                chunk = await self._next()
            except TimeoutError:
                raise Failure("timeout") from None

    async def _bytes(self) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        while loop.time() < self._deadline:
            # Until the first chunk has come, whoever waits for it has a limit of its own.
            silent = self._deadline if self._first is None else min(self._deadline, loop.time() + self._gap)
            async with asyncio.timeout_at(silent):
                part = await self._response.content.readany()
            if not part:
                return
            yield part
        raise TimeoutError

    async def _next(self) -> dict[str, Any] | None:
        while (data := await self._event()) is not None:
            if (chunk := _chunk(data)) is not None:
                return chunk
        return None

    async def _event(self) -> str | None:
        """The next event's data; None at the end."""
        try:
            data = await anext(self._events, None)
        except NotEvents:
            raise Failure("garbage") from None
        except aiohttp.ClientError:
            raise Failure("stopped") from None
        if data == DONE:
            self.said_done = True
            # A connection can be used again once it has been read to its end, which comes now or is not worth a wait.
            with suppress(TimeoutError, NotEvents, aiohttp.ClientError):
                async with asyncio.timeout(0.05):
                    await anext(self._events, None)
            return None
        return data

    def close(self) -> None:
        """Ends the call, which makes the upstream stop; a connection whose answer has been read is kept."""
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()


async def _read(response: aiohttp.ClientResponse) -> bytes:
    parts, size = [], 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > LARGEST_ANSWER:
            raise Failure("garbage")
        parts.append(part)
    return b"".join(parts)


def _answer(raw: bytes, kind: Kind) -> dict[str, Any]:
    try:
        answer = strict_json.loads(raw)
    except json.JSONDecodeError:
        raise Failure("garbage") from None
    choices = answer.get("choices") if isinstance(answer, dict) else None
    wanted = ("message", dict) if kind == "chat" else ("text", str)
    if not isinstance(answer, dict) or not isinstance(choices, list) or not choices:
        raise Failure("garbage")
    if not all(isinstance(each, dict) and isinstance(each.get(wanted[0]), wanted[1]) for each in choices):
        raise Failure("garbage")
    return answer


def _chunk(data: str) -> dict[str, Any] | None:
    """A chunk, checked as far as the gateway reads it; None for an event that only shows that the upstream lives."""
    if not data.strip():
        return None
    try:
        chunk = strict_json.loads(data)
    except json.JSONDecodeError:
        raise Failure("garbage") from None
    if not isinstance(chunk, dict):
        raise Failure("garbage")
    if chunk.get("error") is not None:
        raise Failure("reported")
    if "choices" not in chunk and "usage" not in chunk:
        return None  # {}, {"type": "ping"} and the like
    choices = chunk.get("choices") or []
    if not isinstance(choices, list) or not all(isinstance(each, dict) for each in choices):
        raise Failure("garbage")
    told = {key: value for key, value in chunk.items() if key != "error"}
    return told | {"choices": choices}


def _redacted(target: Target, message: str) -> str:
    """An upstream's words without its address, its keys, its name for the model, or anything that looks like them."""
    url = URL(target.upstream.url)
    secrets = [target.upstream.url, url.authority, url.host]
    hidden = [*target.upstream.headers.values(), target.upstream.api_key]
    secrets += [each.get_secret_value() for each in hidden if each is not None]
    for secret in filter(None, secrets):
        message = message.replace(secret, "***")
    if target.model.name:
        message = message.replace(target.model.name, target.name)
    return re.sub(r"\w+://\S+|\b(sk|hf|key)[-_]\S+|(?<!\w)(/[\w.@-]+){2,}", "***", message)[:500]
