"""One request's way through the gateway: decide, reserve, ask, and if need be ask another; then settle once.

Legs (`legs.py`) follow each other when a model fails, when a budget does not reach for it, or when a cascade's answer
is not confident enough.
"""

from __future__ import annotations

import logging
import math
import time
import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from roster.errors import RosterError
from roster.gateway import prices
from roster.gateway.calls import Call, Context
from roster.gateway.confidence import (
    calls_are_valid,
    calls_tools,
    confidence,
    with_logprobs,
    without_logprobs,
    worded,
)
from roster.gateway.counting import Produced, most_prompt, usage_of
from roster.gateway.errors import ApiError, rate_limited
from roster.gateway.fitting import unfit
from roster.gateway.keys import NANO, Caller
from roster.gateway.ledger import Purse
from roster.gateway.legs import Leg
from roster.gateway.outgoing import limit_field, limited
from roster.gateway.prices import Usage
from roster.gateway.requests import Asked
from roster.gateway.tracing import Ended
from roster.gateway.upstreams import Failure, Stream, Target
from roster.gateway.wishes import Wish, understand
from roster.lm.policy import Decision

if TYPE_CHECKING:
    from roster.gateway.gateway import Gateway
    from roster.gateway.learning import Learner

log = logging.getLogger("roster.gateway")


@dataclass(frozen=True)
class Answer:
    """A whole answer, or one whose first chunk has come: `body` or `stream`.

    Attributes:
        leg: who gave it.
        body: the upstream's object.
        stream: its chunks.
    """

    leg: Leg
    body: dict[str, Any] | None = None
    stream: Stream | None = None


class Session:
    """A request under way.

    Args:
        gateway: everything that outlives the request.
        caller: who asks and pays.
        asked: for what.
        wish: whom to ask; by default what the request's model says.

    Raises:
        ApiError: there is no such model.
    """

    def __init__(self, gateway: Gateway, caller: Caller, asked: Asked, wish: Wish | None = None) -> None:
        self.gateway, self.runtime = gateway, gateway.runtime  # a reload does not change requests under way
        self.caller, self.asked = caller, asked
        self.wish = wish or understand(asked.request.model, self.runtime.config, caller.name)
        self.policy = self.wish.policy
        self.id = f"{'chatcmpl' if asked.kind == 'chat' else 'cmpl'}-{uuid.uuid4().hex}"
        self.legs: list[Leg] = []
        self.begun = time.perf_counter()
        self.traceparent: str | None = None
        """The client's, for traces."""
        self._purse = Purse(gateway.ledger, caller)
        self._kept: Answer | None = None
        self._refusal: ApiError | None = None
        """Of the last model that could not take such a request."""
        self._waits: list[float | None] = []
        """After which upstreams that had enough want to be asked again."""
        self._unfit = {} if self.policy is None else unfit(asked, self.runtime.config.models)

    @property
    def cost(self) -> int:
        """Of all legs so far, in billionths."""
        return sum(leg.cost for leg in self.legs)

    async def answer(self) -> Answer:
        """An answer, from the first model that gives one that is good enough.

        Raises:
            ApiError: nobody does.
        """
        while True:
            leg = await self._next_leg()
            if leg is None:
                return self._last_resort()
            try:
                answer = await self._ask(leg)
            except Failure as failure:
                self._failed(leg, failure)
                continue
            except ApiError as refusal:
                if leg.outcome != "unfit":
                    raise
                self._refusal = refusal
                continue
            if answer.body is None or await self._good_enough(leg, answer.body):
                return answer
            leg.outcome = "escalated"
            self._kept = answer

    async def _next_leg(self) -> Leg | None:
        """Decides who is asked next and reserves the money; None when nobody is left."""
        while (leg := self._sibling() or await self._chosen()) is not None:
            self.legs.append(leg)
            if await self._reserve(leg.target):
                return leg
            leg.outcome = "over_budget"
        return None

    def _failures(self) -> list[Leg]:
        return [leg for leg in self.legs if leg.outcome not in ("escalated", "over_budget", "unfit")]

    def _sibling(self) -> Leg | None:
        """Another way to the model that has just failed, up to as many as there are retries."""
        failures = self._failures()
        if not failures or failures[-1] is not self.legs[-1]:
            return None
        model = failures[-1].target.name
        tried = {leg.target.way for leg in failures if leg.target.name == model}
        if len(tried) > self.runtime.config.limits.retries:
            return None
        target = self.runtime.ways.pick(model, tried)
        return None if target is None else Leg(target, failures[-1].decision)

    async def _chosen(self) -> Leg | None:
        """The least busy way to the model that is decided on, unless too many models have failed."""
        if len({leg.target.name for leg in self._failures()}) > self.runtime.config.limits.retries:
            return None
        decision = await self._decide()
        target = None if decision is None else self.runtime.ways.pick(decision.model)
        return None if decision is None or target is None else Leg(target, decision)

    async def _decide(self) -> Decision | None:
        excluded = frozenset(self.runtime.ways.resting | self._unfit.keys() | {leg.target.name for leg in self.legs})
        if self.policy is None:
            name = self.asked.request.model
            return None if name in excluded else Decision(name, "asked for by name")
        try:
            return await self.gateway.decide(
                self.runtime, self.wish, self.asked.said, excluded, self.asked.request.limit
            )
        except RosterError:
            return None

    async def _reserve(self, target: Target) -> bool:
        """Sets the most that the next leg can cost aside, beside what was spent already."""
        if not self.caller.limited:
            return True
        output = (self.asked.request.limit or target.model.max_output) * self.asked.answers
        most = prices.most(target.model.price, most_prompt(self.asked, target.model), output)
        return await self._purse.hold(self.cost + most)

    def _body(self, leg: Leg) -> dict[str, Any]:
        """The request for one leg: a cascade asks for log-probabilities, a budget for a limit."""
        limit = self.asked.request.limit
        if self.caller.limited and limit is None:
            limit = leg.target.model.max_output
        field = limit_field(leg.target.model, leg.target.upstream, self.asked.kind == "chat")
        body = limited(self.asked.body, field, limit)
        if leg.decision.escalate_below is not None:
            body = {key: value for key, value in body.items() if key != "stream_options"} | {"stream": False}
            return body if self._learner.judges else with_logprobs(body, self.asked.kind)
        if self.asked.request.stream:
            options = body.get("stream_options") or {}
            if options.get("include_usage") is not True:
                body = body | {"stream_options": options | {"include_usage": True}}
        return body

    async def _ask(self, leg: Leg) -> Answer:
        target, client = leg.target, self.gateway.client
        leg.begin(self.runtime.ways)
        try:
            # A cascade must see the whole answer before it lets anything through.
            if self.asked.request.stream and leg.decision.escalate_below is None:
                stream = await client.stream(target, self.asked, self._body(leg))
                self.gateway.metrics.first_token_seconds.labels(target.name).observe(time.perf_counter() - leg.begun)
                leg.headers = stream.headers
                return Answer(leg, stream=stream)
            body, leg.headers = await client.complete(target, self.asked, self._body(leg))
        except ApiError as refusal:
            target.breaker.succeeded()
            self.end_leg(leg, "unfit" if refusal.elsewhere and self.policy is not None else "refused")
            raise
        except Failure:
            raise
        except BaseException:
            target.breaker.abandoned()
            self.end_leg(leg, "abandoned")
            raise
        target.breaker.succeeded()
        leg.upstream_id = body.get("id")
        leg.charge(prices.read_usage(body.get("usage")) or self._counted(leg, body))
        self.end_leg(leg, "answered")
        return Answer(leg, body=body)

    def _counted(self, leg: Leg, body: dict[str, Any]) -> Usage:
        produced = self.producing(leg)
        for at, choice in enumerate(body["choices"]):
            produced.add(at, choice)
        return self.used(leg, produced)

    def producing(self, leg: Leg) -> Produced:
        """Where to note what a leg's model writes."""
        return Produced(self.runtime.tokenizers.get(leg.target.name))

    def used(self, leg: Leg, produced: Produced, before: Usage | None = None) -> Usage:
        """What a leg used, by what went through since the upstream's last count."""
        name = leg.target.name
        usage = usage_of(self.asked, leg.target.model, self.runtime.tokenizers.get(name), produced, before)
        limit = self.asked.request.limit or (leg.target.model.max_output if self.caller.limited else None)
        if limit is None:  # none was sent, so that there may be more
            return usage
        return replace(usage, completion=min(usage.completion, limit * self.asked.answers))

    def end_leg(self, leg: Leg, outcome: str) -> None:
        """A call to a model is over."""
        leg.end(outcome, self.runtime.ways, self.gateway.metrics)

    def _failed(self, leg: Leg, failure: Failure) -> None:
        leg.target.breaker.failed(failure.retry_after)
        self.end_leg(leg, failure.kind)
        if failure.kind == "rate_limited":
            self._waits.append(failure.retry_after)
        log.warning("%s: model %s failed: %s", self.id, leg.target.name, failure.kind)

    @property
    def _learner(self) -> Learner:
        """The policy behind a decision."""
        assert self.policy is not None
        return self.runtime.learners[self.policy]

    async def _good_enough(self, leg: Leg, body: dict[str, Any]) -> bool:
        wanted = leg.decision.escalate_below
        if wanted is None:
            return True
        if self._learner.judges:
            texts = worded(body, self.asked.kind)
            leg.confidence = None if texts is None else await self._learner.confidence(self.asked.said, texts)
        else:
            leg.confidence = confidence(body, self.asked.kind)
        asked_for = self.asked.request.logprobs
        if asked_for is None or asked_for is False:  # 0 is a wish, for text
            without_logprobs(body)
        if leg.confidence is None and calls_tools(body):
            rule = getattr(self._learner.policy, "tool_calls", "valid")
            return bool(rule == "accept" or (rule == "valid" and calls_are_valid(body, self.asked.body)))
        # An answer that shows no confidence has none.
        return leg.confidence is not None and leg.confidence >= wanted

    def _last_resort(self) -> Answer:
        """Nobody is left to ask: an answer that was not confident enough is better than none."""
        if self._kept is not None:
            self._kept.leg.outcome = "answered"
            return self._kept
        outcomes = [leg.outcome for leg in self.legs]
        if self._refusal is not None and not self._failures():
            raise self._refusal
        if "over_budget" in outcomes:
            self.gateway.metrics.over_budget.inc()
            raise ApiError(
                429, "The budget of this API key does not reach for this request.", "insufficient_quota",
                kind="insufficient_quota",
            )  # fmt: skip
        waits = [target.breaker.wait for target in self.runtime.ways if target.breaker.wait > 0]
        if self._waits:
            raise rate_limited(min((wait for wait in self._waits if wait is not None), default=None))
        if not outcomes and self.policy is not None:
            self._check_fits(self.policy)
        if not outcomes:
            wait = math.ceil(min(waits, default=1.0))
            raise ApiError(503, "No model is available at the moment.", "unavailable", "server_error", None, wait)
        status = 504 if outcomes[-1] == "timeout" else 502
        raise ApiError(status, f"No model answered ({', '.join(outcomes)}).", "upstream_failed", kind="server_error")

    def _check_fits(self, policy: str) -> None:
        """Raises: ApiError: no model of the policy can take the request."""
        codes = [self._unfit.get(model) for model in self.runtime.learners[policy].policy.models]
        if codes and codes[0] is not None and all(codes):
            raise ApiError(400, f"No model of {policy!r} can take this request ({codes[0]}).", codes[0])

    def extension(self, leg: Leg) -> dict[str, Any]:
        """The `roster` field of an answer."""
        decision = leg.decision
        return {
            "id": self.id,
            "policy": self.policy,
            "model": leg.target.name,
            "reason": decision.reason,
            "quality": decision.quality,
            "estimated_cost": self.estimated_cost(leg),
            "cost": self.cost / NANO,
            "usage_estimated": leg.usage.estimated,
            "usage_counted": leg.usage.counted,
            "propensity": decision.propensity,
            "upstream_id": leg.upstream_id,
            "attempts": [each.record() for each in self.legs],
        }

    def estimated_cost(self, leg: Leg) -> float:
        """What the decision, or else the price, says that the answer will cost."""
        if leg.decision.cost is not None:
            return leg.decision.cost
        return prices.estimate(leg.target.model.price, self.asked.prompt, self.asked.request.limit)

    async def finish(self, leg: Leg | None, outcome: str = "answered") -> None:
        """Pays, and records the call; a second time does nothing.

        Args:
            leg: who answered, or was last asked; None: nobody was.
            outcome: "answered", or what ended the request.
        """
        call = None
        if leg is not None:
            prompt = self.asked.prompt if self.runtime.config.keeping.log_prompts else None
            usage = leg.usage
            call = Call(
                self.id, self.caller.name, self.policy, leg.target.name, leg.decision, self.cost,
                usage.prompt, usage.completion, outcome, prompt,
                Context(self.caller.rules.team, time.perf_counter() - self.begun, self.wish.experiment, usage.counted),
            )  # fmt: skip
            self.gateway.remember(self.id, self.policy, self.asked.said)
        if not await self._purse.settle(self.cost, call):
            return
        self.gateway.rates.spent(self.caller, sum(each.usage.prompt + each.usage.completion for each in self.legs))
        self.gateway.traces.ended(self._trace(), outcome)
        if outcome == "answered":
            self.gateway.shadows.follow(self.policy, self.asked)
        log.info(
            "%s key=%s policy=%s model=%s outcome=%s cost=%.9f", self.id, self.caller.name, self.policy,
            None if leg is None else leg.target.name, outcome, self.cost / NANO,
        )  # fmt: skip

    def _trace(self) -> Ended:
        operation, name = "chat" if self.asked.kind == "chat" else "text_completion", self.asked.request.model
        cost, parent = self.cost / NANO, self.traceparent
        return Ended(operation, name, self.id, self.caller.name, self.wish, cost, self.begun, parent, self.legs)
