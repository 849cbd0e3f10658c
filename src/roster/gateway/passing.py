"""One request to /v1/embeddings or /v1/responses on its way: whom it is sent to, and that it is paid, counted, traced.

What is passed, and how the answer comes back, is in `passthrough.py` and `passed.py`.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp

from roster.errors import RosterError
from roster.gateway import prices
from roster.gateway.calls import Call, Context
from roster.gateway.counting import TEMPLATE_TOKENS
from roster.gateway.errors import ApiError, rate_limited
from roster.gateway.keys import NANO, Caller
from roster.gateway.ledger import Purse
from roster.gateway.legs import Leg
from roster.gateway.prices import Usage
from roster.gateway.runtime import Runtime
from roster.gateway.tracing import Ended
from roster.gateway.upstreams import Failure
from roster.gateway.wishes import Wish, understand
from roster.lm.policy import Decision
from roster.lm.text import Said

if TYPE_CHECKING:
    from roster.gateway.gateway import Gateway


@dataclass(frozen=True)
class Sent:
    """What goes upstream.

    Attributes:
        path: under the upstream's URL.
        body: the request.
        raw: the bytes that `body` was read from; None once it was changed.
        size: bytes of the request as it came.
        headers: of the client, that go along.
        most: tokens that the answer may have; None: the request says nothing.
    """

    path: str
    body: dict[str, Any]
    raw: bytes | None
    size: int
    headers: dict[str, str]
    most: int | None

    @property
    def kind(self) -> str:
        """embeddings or responses."""
        return self.path.strip("/")

    @property
    def bound(self) -> int:
        """The most tokens that are read."""
        return self.size + 2 * TEMPLATE_TOKENS


@dataclass
class Passing:
    """The request.

    Attributes:
        gateway: what outlives it.
        runtime: which a reload does not change under it.
        caller: who pays.
        name: the model that it names.
        wish: what that asks for.
        sent: what goes upstream.
        purse: what is set aside.
        legs: the calls so far.
        id: in the ledger.
        begun: when.
    """

    gateway: Gateway
    runtime: Runtime
    caller: Caller
    name: str
    wish: Wish
    sent: Sent
    purse: Purse
    legs: list[Leg] = field(default_factory=list)
    id: str = ""
    begun: float = field(default_factory=time.perf_counter)

    async def send(self, said: Said) -> tuple[Leg, aiohttp.ClientResponse]:
        """The answer of the first way that gives one, and the call; whoever has them sees to their end.

        Args:
            said: what a policy is asked about.

        Raises:
            ApiError: nobody answers, the budget does not reach, or the upstream blames the request.
        """
        decision = await self._decide(said)
        await self._reserve(decision)
        ways, waits = self.runtime.ways, []
        tried: set[str] = set()
        while (target := ways.pick(decision.model, tried)) and len(tried) <= self.runtime.config.limits.retries:
            tried.add(target.way)
            leg = Leg(target, decision)
            self.legs.append(leg)
            try:
                return leg, await self._open(leg)
            except Failure as failure:
                if failure.kind == "rate_limited":
                    waits.append(failure.retry_after)
        await self.finish("upstream_failed")
        if waits:
            raise rate_limited(min((wait for wait in waits if wait is not None), default=None))
        message = f"The model {decision.model!r} did not answer."
        raise ApiError(502 if tried else 503, message, "upstream_failed", kind="server_error")

    async def _decide(self, said: Said) -> Decision:
        if self.wish.policy is None:
            return Decision(self.name, "asked for by name")
        resting = frozenset(self.runtime.ways.resting)
        try:
            return await self.gateway.decide(self.runtime, self.wish, said, resting, self.sent.most)
        except RosterError:
            raise ApiError(503, "No model is available at the moment.", "unavailable", "server_error") from None

    async def _reserve(self, decision: Decision) -> None:
        """Sets the most that the call can cost aside; a budget puts the model's own limit on an answer without one."""
        model = self.runtime.config.models[decision.model]
        if self.caller.limited and self.sent.most is None:
            body = self.sent.body | {"max_output_tokens": model.max_output}
            headers, size = self.sent.headers, self.sent.size
            self.sent = Sent(self.sent.path, body, None, size, headers, model.max_output)
        if not await self.purse.hold(prices.most(model.price, self.sent.bound, self.sent.most or 0)):
            self.gateway.metrics.over_budget.inc()
            message = "The budget of this API key does not reach for this request."
            raise ApiError(429, message, "insufficient_quota", kind="insufficient_quota")

    async def _open(self, leg: Leg) -> aiohttp.ClientResponse:
        target, sent = leg.target, self.sent
        leg.begin(self.runtime.ways)
        try:
            total = target.upstream.timeouts.total
            return await self.gateway.client.open(target, sent.path, sent.body, total, sent.raw, sent.headers)
        except (Failure, TimeoutError) as error:
            failure = error if isinstance(error, Failure) else Failure("timeout")
            target.breaker.failed(failure.retry_after)
            self.end(leg, failure.kind)
            raise failure from None
        except BaseException as error:
            refused = isinstance(error, ApiError)
            (target.breaker.succeeded if refused else target.breaker.abandoned)()
            self.end(leg, "refused" if refused else "abandoned")
            self.gateway.spawn(self.finish(leg.outcome))
            raise

    def end(self, leg: Leg, outcome: str, usage: Usage | None = None) -> None:
        """A call is over; `usage` is None for one that brought nothing."""
        if usage is not None:
            leg.charge(usage)
        leg.end(outcome, self.runtime.ways, self.gateway.metrics)

    async def finish(self, outcome: str) -> None:
        """Pays and records the request, once."""
        if not self.legs:
            await self.purse.settle(0, None)
            return
        leg, seconds = self.legs[-1], time.perf_counter() - self.begun
        usage, cost = leg.usage, sum(each.cost for each in self.legs)
        call = Call(
            self.id, self.caller.name, self.wish.policy, leg.target.name, leg.decision, cost,
            usage.prompt, usage.completion, outcome,
            context=Context(self.caller.rules.team, seconds, self.wish.experiment, usage.counted),
        )  # fmt: skip
        if await self.purse.settle(cost, call):
            self.gateway.rates.spent(self.caller, usage.prompt + usage.completion)
            self.gateway.traces.ended(self._trace(cost), outcome)

    def _trace(self, cost: int) -> Ended:
        kind, parent = self.sent.kind, self.sent.headers.get("traceparent")
        return Ended(kind, self.name, self.id, self.caller.name, self.wish, cost / NANO, self.begun, parent, self.legs)


def begin(gateway: Gateway, caller: Caller, name: str, sent: Sent) -> Passing:
    """A request that may be made.

    Raises:
        ApiError: there is no such model, or this caller may not ask it, or not so often.
    """
    caller.permit(name)
    gateway.rates.enter(caller)
    runtime = gateway.runtime
    wish = understand(name, runtime.config, caller.name)
    purse = Purse(gateway.ledger, caller)
    return Passing(gateway, runtime, caller, name, wish, sent, purse, id=f"{sent.kind}-{uuid.uuid4().hex}")
