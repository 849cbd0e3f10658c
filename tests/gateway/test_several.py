"""Several gateways with one PostgreSQL: what one learns or spends, the other knows."""

import contextlib
import time

import httpx
import pytest

from gateway.servers import DATABASES, SMALL_COST, gateway_of, on_loop, postgres, settings
from roster.errors import RosterError
from roster.gateway.keys import NANO
from roster.gateway.store import Store

ASK = {"model": "auto", "messages": [{"role": "user", "content": "count to three"}], "max_tokens": 3}
ALICE, BOB = ({"authorization": f"Bearer {key}"} for key in ("alice-secret-0123456789", "bob-secret-9876543210"))

pytestmark = pytest.mark.skipif("postgresql" not in DATABASES, reason="needs PostgreSQL")


@pytest.fixture(scope="module")
def database():
    with postgres() as (url, _):
        for _ in range(200):
            with contextlib.suppress(RosterError):
                Store(url).close()
                break
        yield url


@pytest.fixture
def two(upstream, database, tmp_path):
    """(client, gateway) twice, on one database."""
    config = settings(
        upstream.url,
        store=database,
        policies={"auto": {"kind": "thompson", "features": 8, "seed": 0}},
        keys={
            "alice": {"key": "alice-secret-0123456789", "budget": 12 * SMALL_COST, "period": "total"},
            "bob": {"key": "bob-secret-9876543210"},
        },
    )
    with contextlib.ExitStack() as stack:
        made = []
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
            url, gateway = stack.enter_context(gateway_of(config, tmp_path / name))
            client = stack.enter_context(httpx.Client(base_url=url, trust_env=False, timeout=10))
            made.append((client, gateway))
        yield made


def test_what_one_learns_the_other_knows(two):
    (one, _), (other, _) = two
    for _ in range(6):
        call = one.post("/v1/chat/completions", json=ASK, headers=BOB).json()
        # The answer came through one gateway, its score goes to the other, which has not seen the prompt.
        scored = {"id": call["id"], "score": 0.9, "messages": ASK["messages"]}
        told = other.post("/v1/feedback", json=scored, headers=BOB).json()
        assert told["learned"], told
    fresh = quality(other)
    assert any(value > 0.6 for value in fresh.values()), "it learned at all"
    until = time.monotonic() + 20
    while quality(one) != fresh and time.monotonic() < until:
        time.sleep(0.2)
    assert quality(one) == fresh


def quality(client):
    return client.post("/v1/route", json={"messages": ASK["messages"]}, headers=BOB).json()["quality_by_model"]


def test_a_budget_is_shared(two):
    answered = 0
    for n in range(40):
        client, _ = two[n % 2]
        reply = client.post("/v1/chat/completions", json=ASK | {"model": "small"}, headers=ALICE)
        if reply.status_code != 200:
            assert reply.json()["error"]["code"] == "insufficient_quota"
            break
        answered += 1
    assert 0 < answered <= 12
    spent = [on_loop(gateway.store.used("alice", "total")) for _, gateway in two]
    assert spent[0] == spent[1] == round(answered * SMALL_COST * NANO)
