"""/v1/embeddings and /v1/responses, passed through to an upstream that has them, byte for byte.

The model is named or, for responses, chosen by a policy; the gateway changes only that name in the request, counts what
the usage says, and keeps budgets. It does not judge answers, so a cascade gives its first step's. What a client sends
or gets beside the fields read here is none of the gateway's business.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import aiohttp
from fastapi import Request, Response
from pydantic import ConfigDict, Field
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from roster.errors import RosterError
from roster.gateway import prices, strict_json
from roster.gateway.calls import Call, Context
from roster.gateway.counting import TEMPLATE_TOKENS
from roster.gateway.errors import ApiError, rate_limited
from roster.gateway.keys import NANO, Caller
from roster.gateway.ledger import Purse
from roster.gateway.prices import NO_USAGE, Usage
from roster.gateway.requests import Flag, ModelName, Open, Tokens
from roster.gateway.sse import NotEvents, read_events
from roster.gateway.upstreams import LARGEST_ANSWER, Failure, Target
from roster.gateway.wishes import Wish, understand
from roster.lm.policy import Decision

if TYPE_CHECKING:
    from roster.gateway.gateway import Gateway

_PASSED = ("content-type", "x-request-id", "retry-after", "openai-processing-ms")


class Embeddings(Open):
    """POST /v1/embeddings: `model` and `input` are read, the rest goes to the upstream as it is."""

    model_config = ConfigDict(extra="allow")

    model: ModelName
    input: Annotated[Any, Field(description="Text, texts or token ids, as the upstream takes them.")]


class Responses(Open):
    """POST /v1/responses: the fields below are read, the rest goes to the upstream as it is."""

    model: ModelName
    input: str | list[dict[str, Any]]
    instructions: str | None = None
    stream: Flag | None = None
    max_output_tokens: Tokens | None = None

    def prompt(self) -> str:
        """The text that policies decide by."""
        items = [self.input] if isinstance(self.input, str) else [_text(each.get("content")) for each in self.input]
        return "\n".join([self.instructions or "", *items]).strip()


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))


@dataclass
class Passing:
    """One request on its way.

    Attributes:
        gateway: what outlives it.
        caller: who pays.
        path: under the upstream's URL.
        target: the way that is taken.
        decision: why.
        wish: what was asked for.
        purse: what is set aside.
        usage: as the upstream told.
        begun: when.
        size: of the request, in bytes.
        most: tokens that the answer may have.
    """

    gateway: Gateway
    caller: Caller
    path: str
    target: Target
    decision: Decision
    wish: Wish
    purse: Purse
    usage: Usage = NO_USAGE
    begun: float = 0.0
    size: int = 0
    most: int = 0

    async def end(self, outcome: str) -> None:
        """Pays and records it, once."""
        cost = prices.cost(self.target.model.price, self.usage)
        kind, seconds = self.path.strip("/"), time.perf_counter() - self.begun
        call = Call(
            f"{kind}-{uuid.uuid4().hex}", self.caller.name, self.wish.policy, self.target.name, self.decision, cost,
            self.usage.prompt, self.usage.completion, outcome,
            context=Context(self.caller.rules.team, seconds, self.wish.experiment, self.usage.counted),
        )  # fmt: skip
        if await self.purse.settle(cost, call):
            metrics, name = self.gateway.metrics, self.target.name
            metrics.attempts.labels(name, outcome).inc()
            metrics.cost.labels(name).inc(cost / NANO)
            self.gateway.rates.spent(self.caller, self.usage.prompt + self.usage.completion)


async def embeddings(request: Request, body: Embeddings) -> Response:
    """Vectors for texts, from the model that the request names."""
    return await _pass(request, "/embeddings", body.model, "", output=0)


async def responses(request: Request, body: Responses) -> Response:
    """OpenAI's Responses, from the model that the request names or that a policy chooses."""
    return await _pass(request, "/responses", body.model, body.prompt(), output=body.max_output_tokens)


async def _pass(request: Request, path: str, name: str, prompt: str, output: int | None) -> Response:
    gateway: Gateway = request.app.state.gateway
    caller: Caller = request.state.caller
    caller.permit(name)
    gateway.rates.enter(caller)
    runtime = gateway.runtime
    wish = understand(name, runtime.config, caller.name)
    decision = Decision(name, "asked for by name")
    if wish.policy is not None:
        try:
            decision = await gateway.decide(runtime, wish, prompt, frozenset(runtime.ways.resting), output)
        except RosterError:
            raise ApiError(503, "No model is available at the moment.", "unavailable", "server_error") from None
    body = await request.json()
    price, limit = runtime.config.models[decision.model].price, runtime.config.models[decision.model].max_output
    purse = Purse(gateway.ledger, caller)
    if caller.limited and output is None:
        output = limit
        body = body | {"max_output_tokens": limit}
    if not await purse.hold(prices.most(price, request.state.size + 2 * TEMPLATE_TOKENS, output or 0)):
        gateway.metrics.over_budget.inc()
        message = "The budget of this API key does not reach for this request."
        raise ApiError(429, message, "insufficient_quota", kind="insufficient_quota")
    tried: set[str] = set()
    waits: list[float | None] = []
    while (target := runtime.ways.pick(decision.model, tried)) is not None and len(
        tried
    ) <= runtime.config.limits.retries:
        tried.add(target.way)
        passing = Passing(
            gateway,
            caller,
            path,
            target,
            decision,
            wish,
            purse,
            NO_USAGE,
            time.perf_counter(),
            request.state.size,
            limit if output is None else output,
        )
        answer = await _ask(passing, body, waits)
        if answer is not None:
            return answer
    await purse.settle(0, None)
    if waits:
        raise rate_limited(min((wait for wait in waits if wait is not None), default=None))
    message = f"The model {decision.model!r} did not answer."
    raise ApiError(502 if tried else 503, message, "upstream_failed", kind="server_error")


async def _ask(passing: Passing, body: dict[str, Any], waits: list[float | None]) -> Response | None:
    """The answer of one way; None where another may be tried: one that had enough says in `waits` until when."""
    target, ways = passing.target, passing.gateway.runtime.ways
    target.breaker.begin()
    ways.in_flight[target.way] += 1
    try:
        total = target.upstream.timeouts.total
        response = await passing.gateway.client.open(target, passing.path, body, total)
    except BaseException as error:
        ways.in_flight[target.way] -= 1
        if isinstance(error, (Failure, TimeoutError)):
            target.breaker.failed()
            if isinstance(error, Failure) and error.kind == "rate_limited":
                waits.append(error.retry_after)
            return None
        (target.breaker.succeeded if isinstance(error, ApiError) else target.breaker.abandoned)()
        passing.gateway.spawn(passing.end("refused" if isinstance(error, ApiError) else "abandoned"))
        raise
    headers = {key: value for key in _PASSED if (value := response.headers.get(key)) is not None}
    headers |= {"x-roster-model": target.name}
    return Passed(passing, response, headers)


class Passed(StreamingResponse):
    """An upstream's answer as it comes; its usage is read on the way."""

    def __init__(self, passing: Passing, response: aiohttp.ClientResponse, headers: dict[str, str]) -> None:
        self._passing, self._response = passing, response
        self._seen = bytearray()
        self._outcome = "disconnected"
        super().__init__(self._parts(), response.status, headers)

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
        passing, breaker = self._passing, self._passing.target.breaker
        passing.gateway.runtime.ways.in_flight[passing.target.way] -= 1
        {"stopped": breaker.failed, "disconnected": breaker.abandoned}.get(self._outcome, breaker.succeeded)()
        bound = Usage(passing.size + 2 * TEMPLATE_TOKENS, min(len(self._seen), passing.most), "bound")
        passing.usage = await _usage(bytes(self._seen), self._response.content_type) or bound
        self._response.close()
        await passing.end(self._outcome)


async def _usage(raw: bytes, kind: str) -> Usage | None:
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
