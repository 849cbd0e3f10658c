"""The parts of the gateway on their own: events, breaker, prices, policies, the store on each database."""

import asyncio
import contextlib
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.servers import DATABASES, free_port, postgres, settings
from roster.errors import RosterError
from roster.gateway.breaker import Breaker
from roster.gateway.calls import Call
from roster.gateway.config import Price
from roster.gateway.config_file import Config
from roster.gateway.databases import Sqlite
from roster.gateway.policies import KINDS, build_policy
from roster.gateway.policies.thompson import _chance_of_largest
from roster.gateway.prices import Usage, cost, estimate, most, read_usage
from roster.gateway.sse import NotEvents, event, read_events
from roster.gateway.store import Entry, Row, ScoredBefore, Store
from roster.lm.policy import Decision, Policy

MODELS = Config.model_validate(settings("http://127.0.0.1:1")).models
OPTIONS = {
    "cascade": {"steps": ["small", "large"], "escalate_below": 0.5},
    "cheapest": {},
    "fixed": {"models": ["large", "small"]},
    "mix": {"weights": {"small": 3.0, "large": 1.0}, "seed": 0},
    "thompson": {"seed": 0, "features": 8},
    "learned-best-effort": {
        "deadline": 9.0,
        "models": {name: {"quality": 0.5, "seconds": 1.0} for name in ("small", "large")},
    },
    "workload-aware-router": {"models": ["small", "large"]},
}


def policy(kind, **options):
    return build_policy("it", {"kind": kind} | OPTIONS.get(kind, {}) | options, MODELS, Path())


def collect(*chunks):
    async def source():
        for chunk in chunks:
            yield chunk

    async def all_of():
        return [each async for each in read_events(source())]

    return asyncio.run(all_of())


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), min_size=1), max_size=5), st.data())
def test_events_survive_any_cutting(texts, data):
    raw = b": comment\r\n\r\n" + b"".join(event(text) for text in texts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=6)))
    chunks = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    assert collect(*chunks) == texts


def test_events_of_other_servers():
    assert collect(b"event: x\r\ndata: one\r\ndata:two\r\n\r\nid: 7\n\ndata: [DONE]") == ["one\ntwo", "[DONE]"]


@pytest.mark.parametrize("raw", [b"<html>\n", b"\xff\xfe\n\n", b"HTTP/1.1 200 OK\r\n"])
def test_what_is_no_event(raw):
    with pytest.raises(NotEvents):
        collect(raw)


def test_events_without_end(monkeypatch):
    monkeypatch.setattr("roster.gateway.sse.LARGEST_EVENT", 100)
    with pytest.raises(NotEvents):
        collect(*[b"data: x\n"] * 20)


def test_breaker():
    now = 0.0
    breaker = Breaker(2, 10.0, lambda: now)
    breaker.failed()
    assert breaker.wait == 0
    breaker.failed()
    assert breaker.wait == 10
    now = 10.0
    assert breaker.wait == 0
    breaker.begin()
    assert breaker.wait == 10, "one trial at a time"
    breaker.abandoned()
    assert breaker.wait == 0
    breaker.begin()
    breaker.failed()
    assert breaker.wait == 10, "one failed trial is enough"
    now = 20.0
    breaker.begin()
    breaker.succeeded()
    breaker.failed()
    assert breaker.wait == 0, "counted anew"
    breaker.failed()
    assert breaker.wait == 10, "and from nothing: as many as before open it"


def test_a_breaker_heeds_retry_after():
    now = 0.0
    breaker = Breaker(1, 10.0, lambda: now)
    breaker.failed(45.0)
    assert breaker.wait == 45
    now = 44.0
    assert breaker.wait == 1
    now = 45.0
    breaker.begin()
    assert breaker.wait == 10, "a trial under way has the usual time"
    breaker.failed(2.0)
    assert breaker.wait == 10, "it lengthens the cooldown and never shortens it"
    breaker.failed(1e9)
    assert breaker.wait == 3600


def test_prices():
    price = Price(input=1.0, output=10.0)
    assert cost(price, Usage(10, 3)) == 40_000
    assert estimate(price, "x" * 40, 3) == pytest.approx(40e-6)
    assert most(price, 40, 6) >= 2 * cost(price, Usage(10, 3))
    assert read_usage({"prompt_tokens": 1, "completion_tokens": 2}) == Usage(1, 2)
    for bad in (
        None,
        [],
        {},
        {"prompt_tokens": -1, "completion_tokens": 1},
        {"prompt_tokens": True},
        {"prompt_tokens": "1"},
    ):
        assert read_usage(bad) is None


@pytest.mark.parametrize("kind", sorted(OPTIONS))
def test_every_policy_keeps_the_protocol(kind):
    made = policy(kind)
    assert isinstance(made, Policy)
    for _ in range(10):
        decision = made.decide("some words", load={"small": 1.0}, max_tokens=5)
        assert decision.model in made.models
        assert 0 < decision.propensity <= 1
        assert made.decide("", exclude={decision.model}).model != decision.model
    with pytest.raises(RosterError, match="no model left"):
        made.decide("", exclude=set(made.models))
    again = policy(kind)
    again.restore(made.state())
    assert again.state() == made.state()


def test_every_kind_is_tested():
    assert OPTIONS.keys() | {"folder", "probe"} == KINDS.keys(), "these two read folders, and have tests of their own"


def test_mix_draws_by_weight():
    made = policy("mix")
    share = np.mean([made.decide("").model == "small" for _ in range(2000)])
    assert share == pytest.approx(0.75, abs=0.04)
    assert {made.decide("").propensity for _ in range(50)} == {0.25, 0.75}


def test_cheapest_goes_by_price_then_load():
    assert policy("cheapest").decide("x").model == "small"
    equal = {name: model.model_copy(update={"price": Price(input=1.0, output=1.0)}) for name, model in MODELS.items()}
    made = build_policy("it", {"kind": "cheapest"}, equal, Path())
    assert made.decide("x", load={"small": 2.0, "large": 1.0}).model == "large"


def test_a_cascade_needs_log_probabilities():
    mute = MODELS | {"small": MODELS["small"].model_copy(update={"logprobs": False})}
    with pytest.raises(RosterError, match="log-probabilities"):
        build_policy("it", {"kind": "cascade"} | OPTIONS["cascade"], mute, Path())


def test_thompson_is_bayesian_linear_regression():
    made = policy("thompson", features=6, ridge=2.0, prior=0.25, exploration=0.7)
    rng = np.random.default_rng(0)
    words = ["alpha", "beta", "gamma", "delta"]
    prompts = [" ".join(rng.choice(words, 3)) for _ in range(20)]
    scores = rng.random(20)
    for prompt, score in zip(prompts, scores, strict=True):
        made.feedback(prompt, Decision("small", ""), float(score))
    features = np.array([made.features(prompt) for prompt in prompts])
    precision = 2.0 * np.eye(6) + features.T @ features
    new = made.features("alpha gamma")
    weights = np.linalg.solve(precision, features.T @ (scores - 0.25))
    assert made._mean("small", new) == pytest.approx(0.25 + new @ weights)
    assert made._width("small", new) == pytest.approx(0.7 * math.sqrt(new @ np.linalg.solve(precision, new)))
    assert made._mean("large", new) == 0.25


def test_thompson_tells_prompts_apart():
    made = policy("thompson", features=32, exploration=0.1)
    for _ in range(40):
        for prompt, good in (("integrate this function", "large"), ("translate that sentence", "small")):
            for model in ("small", "large"):
                made.feedback(prompt, Decision(model, ""), float(model == good))
    assert made.decide("integrate this function").model == "large"
    assert made.decide("translate that sentence").model == "small"
    dear = policy("thompson", features=32, exploration=0.1, cost_weight=1e5)
    dear.restore(made.state())
    assert dear.decide("integrate this function").model == "small"


@pytest.mark.parametrize("widths", [[0.3, 0.1, 0.2], [0.5, 0.01, 0.01], [0.0, 0.0, 0.0]])
def test_propensity_is_how_often_a_model_is_drawn(widths):
    means, widths = np.array([0.5, 0.6, 0.55]), np.array(widths)
    drawn = np.random.default_rng(0).normal(means, widths, (100_000, 3)).argmax(1)
    for at in range(3):
        assert _chance_of_largest(means, widths, at) == pytest.approx(np.mean(drawn == at), abs=0.04)


def test_a_state_that_does_not_fit():
    made = policy("thompson")
    with pytest.raises(RosterError, match="no state of it"):
        made.restore(b"nonsense")
    with pytest.raises(RosterError, match="8 features and now has 4"):
        policy("thompson", features=4).restore(made.state())
    with pytest.raises(RosterError, match="learns nothing"):
        policy("fixed").restore(b"x")


@pytest.fixture(scope="module", params=DATABASES)
def url(request, tmp_path_factory):
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp(request.param)}/store.db"
        return
    with postgres() as (found, _):
        for _ in range(200):
            with contextlib.suppress(RosterError):
                Store(found).close()
                break
        yield found


def test_the_store(url):
    store, other = Store(url), Store(url)

    async def use():
        assert await store.reserve([Row("a", "2026-01", 100)], 60)
        assert not await other.reserve([Row("a", "2026-01", 100)], 60)
        decision = Decision("small", "why", quality=0.5, quality_by_model={"small": 0.5})
        call = Call("id", "a", "auto", "small", decision, 10, 1, 2, prompt="\ud800 x \0")
        await store.settle([Entry((Row("a", "2026-01", 100),), -50, call)])
        assert await other.used("a", "2026-01") == 10
        found = await other.call("id")
        assert (found.decision, found.prompt) == (decision, "? x ")
        assert await store.call("another") is None
        states = []
        for database in (store, other):
            learned = await database.add_feedback(
                f"call {len(states)}", 0.5, "auto", lambda state: states.append(state) or (state or b"") + b"+"
            )
        assert (learned.version, learned.state, states) == (2, b"++", [None, b"+"])
        with pytest.raises(ScoredBefore):
            await other.add_feedback("call 1", 1.0, "auto", lambda state: b"wrong")
        with pytest.raises(ZeroDivisionError):
            await other.add_feedback("call 2", 1.0, "auto", lambda state: 1 / 0)
        assert await store.learned("auto") == learned, "a failed update leaves no trace"
        assert await store.learned("auto", newer_than=2) is None
        assert await other.add_feedback("call 2", 1.0, None, None) is None
        together = [(store, other)[n % 2].reserve([Row("b", "total", 100)], 7) for n in range(40)]
        assert sum(await asyncio.gather(*together)) == 14
        await store.prune(keep_days=-1)
        assert await store.call("id") is None
        assert await store.add_feedback("call 1", 1.0, None, None) is None, "a score goes with its call"

    try:
        asyncio.run(use())
    finally:
        store.close()
        other.close()


def test_a_closed_store_has_let_go_of_its_database(tmp_path, monkeypatch):
    closed, close = [], Sqlite.close
    monkeypatch.setattr(Sqlite, "close", lambda database: closed.append(close(database)))
    Store("sqlite:///one.db", tmp_path).close()
    assert len(closed) == 1


def test_a_store_that_cannot_be_opened(tmp_path):
    (tmp_path / "text.db").write_text("this is no database, however long it may be" * 100)
    for bad in ("sqlite:///text.db", f"postgresql://me:secret@127.0.0.1:{free_port()}/x", "postgresql://[bad"):
        with pytest.raises(RosterError, match="store: ") as caught:
            Store(bad, tmp_path)
        assert "secret" not in str(caught.value)
