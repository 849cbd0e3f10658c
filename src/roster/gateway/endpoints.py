"""What each path under /v1 does."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import TYPE_CHECKING, Any

from fastapi import Request, Response
from pydantic import BaseModel

from roster.errors import RosterError
from roster.gateway import prices
from roster.gateway.answers import Kept
from roster.gateway.calls import Call, Context
from roster.gateway.errors import ApiError, AsciiJson
from roster.gateway.keys import NANO, Caller
from roster.gateway.ledger import Purse
from roster.gateway.outbound import passed_headers
from roster.gateway.relay import Relay
from roster.gateway.requests import ChatRequest, FeedbackRequest, RouteRequest, TextRequest, asked
from roster.gateway.runtime import Runtime
from roster.gateway.session import Answer, Session
from roster.gateway.store import ScoredBefore
from roster.gateway.waiting import Waiting
from roster.gateway.wishes import names, understand
from roster.lm.text import Said

if TYPE_CHECKING:
    from roster.gateway.gateway import Gateway

_STARTED = int(time.time())


class Routed(BaseModel):
    """A decision."""

    policy: str | None
    model: str
    reason: str
    quality: float | None
    estimated_cost: float | None
    delay: float | None
    quality_by_model: dict[str, float]
    propensity: float
    escalate_below: float | None


class Learned(BaseModel):
    """What became of a score."""

    id: str
    policy: str | None
    model: str
    learned: bool
    reason: str


async def chat(request: Request, body: ChatRequest) -> Response:
    """A chat completion, from the model that the request names or that a policy chooses."""
    return await _generate(request, body)


async def completions(request: Request, body: TextRequest) -> Response:
    """A text completion, from the model that the request names or that a policy chooses."""
    return await _generate(request, body)


async def _generate(request: Request, body: ChatRequest | TextRequest) -> Response:
    gateway, caller = _parties(request)
    caller.permit(body.model)
    gateway.rates.enter(caller)
    wanted = asked(body, await request.json(), await request.body(), passed_headers(request.headers))
    if (kept := gateway.answers.find(caller, wanted)) is not None:
        return await _again(gateway, caller, kept)
    session = Session(gateway, caller, wanted)
    session.traceparent = request.headers.get("traceparent")
    if body.stream:
        return await _streamed(session)
    answer = await _answered(session)
    assert answer.body is not None
    await session.finish(answer.leg)
    told = answer.body | {
        "id": session.id,
        "model": answer.leg.target.name,
        "usage": answer.leg.usage.body(),
        "roster": session.extension(answer.leg),
    }
    if answer.leg.outcome == "answered":
        gateway.answers.keep(caller, wanted, told, (session.policy, answer.leg.decision, answer.leg.usage))
    cost = {"x-roster-cost": f"{session.cost / NANO:.9f}"}
    return AsciiJson(told, headers=_headers(session, answer) | cost)


async def _streamed(session: Session) -> Response:
    """With its own status and headers where the first chunk, or a failure, comes before a client grows impatient."""
    answer = asyncio.create_task(_answered(session))
    try:
        await asyncio.wait({answer}, timeout=session.runtime.config.listen.keep_alive)
    except asyncio.CancelledError:
        answer.cancel()
        raise
    if not answer.done():
        return Waiting(session, answer)
    return Relay(session, answer.result(), _headers(session, answer.result()))


async def _answered(session: Session) -> Answer:
    """The answer; where there is none, the request is over, and the error says what was tried."""
    try:
        return await session.answer()
    except ApiError as error:
        await session.finish(session.legs[-1] if session.legs else None, error.code)
        if session.legs:
            attempts = [leg.record() for leg in session.legs]
            error.extra |= {"roster": {"id": session.id, "policy": session.policy, "attempts": attempts}}
        raise
    except BaseException:
        session.gateway.spawn(session.finish(session.legs[-1] if session.legs else None, "abandoned"))
        raise


async def _again(gateway: Gateway, caller: Caller, kept: Kept) -> Response:
    """An answer that was given before, under a new id; it costs nothing, and is recorded."""
    id = f"{kept.body['id'].partition('-')[0]}-{uuid.uuid4().hex}"
    call = Call(
        id, caller.name, kept.policy, kept.body["model"], kept.decision, 0, kept.usage.prompt, kept.usage.completion,
        "cached", context=Context(caller.rules.team, 0.0),
    )  # fmt: skip
    await Purse(gateway.ledger, caller).settle(0, call)
    told = kept.body["roster"] | {"id": id, "cost": 0.0, "attempts": []}
    headers = {"x-roster-id": id, "x-roster-model": call.model, "x-roster-cost": "0.000000000", "x-roster-cache": "hit"}
    return AsciiJson(kept.body | {"id": id, "roster": told}, headers=headers)


def _headers(session: Session, answer: Answer) -> dict[str, str]:
    """What is known when the answer begins."""
    decision = answer.leg.decision
    told = {
        "x-roster-id": session.id,
        "x-roster-model": answer.leg.target.name,
        "x-roster-reason": decision.reason,
        "x-roster-policy": session.policy,
        "x-roster-quality": None if decision.quality is None else f"{decision.quality:.4f}",
        "x-roster-estimated-cost": f"{session.estimated_cost(answer.leg):.9f}",
        "x-roster-attempts": str(len(session.legs)),
    }
    # A header is one line of ASCII, whatever a policy gives as its reason.
    lines = {key: text for key, text in told.items() if text} | answer.leg.headers
    return {key: " ".join(text.encode("ascii", "replace").decode().split()) for key, text in lines.items()}


async def models(request: Request) -> dict[str, Any]:
    """All names that a request may give as its model."""
    gateway, caller = _parties(request)
    listed = [name for name in names(gateway.runtime.config) if caller.may_ask(name)]
    return {"object": "list", "data": [_described(gateway.runtime, name) for name in listed]}


async def model(request: Request, name: str) -> dict[str, Any]:
    """One of those names."""
    gateway, caller = _parties(request)
    understand(name, gateway.runtime.config, caller.name)
    caller.permit(name)
    return _described(gateway.runtime, name)


def _described(runtime: Runtime, name: str) -> dict[str, Any]:
    model = runtime.config.models.get(name)
    about: dict[str, Any] = {"kind": "policy"}
    if model is not None:
        about = {"kind": "model", "price_per_million_tokens": model.price.model_dump(exclude_none=True)}
    return {"id": name, "object": "model", "created": _STARTED, "owned_by": "roster", "roster": about}


async def route(request: Request, body: RouteRequest) -> Routed:
    """Which model would be asked, and why; nobody is asked."""
    gateway, caller = _parties(request)
    caller.permit(body.model)
    runtime = gateway.runtime
    wish = understand(body.model, runtime.config, caller.name)
    said = body.said or Said.plain("")
    prompt = said.whole
    if wish.policy is None:
        reason, price = "asked for by name", runtime.config.models[body.model].price
        return Routed(
            policy=None, model=body.model, reason=reason, quality=None,
            estimated_cost=prices.estimate(price, prompt, body.max_tokens), delay=None, quality_by_model={},
            propensity=1.0, escalate_below=None,
        )  # fmt: skip
    try:
        decision = await gateway.decide(runtime, wish, said, frozenset(runtime.ways.resting), body.max_tokens)
    except RosterError:
        raise ApiError(503, "No model is available at the moment.", "unavailable", "server_error") from None
    price = runtime.config.models[decision.model].price
    cost = prices.estimate(price, prompt, body.max_tokens) if decision.cost is None else decision.cost
    return Routed(
        policy=wish.policy, model=decision.model, reason=decision.reason, quality=decision.quality, estimated_cost=cost,
        delay=decision.delay, quality_by_model=dict(decision.quality_by_model), propensity=decision.propensity,
        escalate_below=decision.escalate_below,
    )  # fmt: skip


async def feedback(request: Request, body: FeedbackRequest) -> Learned:
    """How good an answer was, from 0 to 1. Policies that learn online learn from it before this returns."""
    gateway, caller = _parties(request)
    call = await gateway.ledger.call(body.id)
    if call is None or call.name != caller.name:
        raise ApiError(404, f"There is no call {body.id!r} of this API key.", "call_not_found", param="id")
    learner = gateway.runtime.learners.get(call.policy or "")
    told = body.said.under(learner.policy.text) if body.said is not None and learner is not None else None
    prompt = told or gateway.remembered(call.id) or call.prompt
    try:
        if learner is None:
            await gateway.store.add_feedback(call.id, body.score, None, None)
            learned = False
        else:
            learned = await learner.feedback(gateway.store, call.id, prompt, call.decision, body.score)
    except ScoredBefore:
        raise ApiError(409, f"The call {body.id!r} was scored before.", "already_scored", param="id") from None
    gateway.metrics.feedback.labels(call.policy or "", str(learned).lower()).inc()
    if learned:
        reason = "learned and kept"
    elif learner is None or not learner.learns:
        reason = "kept; this call's policy does not learn online"
    else:
        reason = "kept; the prompt is no longer in memory, so nothing was learned: send it along"
    return Learned(id=call.id, policy=call.policy, model=call.model, learned=learned, reason=reason)


def _parties(request: Request) -> tuple[Gateway, Caller]:
    return request.app.state.gateway, request.state.caller
