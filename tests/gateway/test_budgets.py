"""Budgets hold, however many requests come at once; keys are told apart and never shown."""

import asyncio
import concurrent.futures
import hashlib
import logging

import openai
import pytest

from gateway.servers import SMALL_COST, gateway_of, on_loop, settings
from roster.gateway.keys import NANO

ASK = [{"role": "user", "content": "count to three"}]
ALICE = "alice-secret-0123456789"


def budgeted(budget):
    return {"alice": {"key": ALICE, "budget": budget, "period": "total"}, "bob": {"key": "bob-secret-9876543210"}}


def used(gateway, name="alice"):
    return on_loop(gateway.store.used(name, "total"))


def test_spending_is_what_calls_cost(start):
    client, gateway = start(keys=budgeted(1.0))
    for _ in range(3):
        client.chat.completions.create(model="small", messages=ASK)
    list(client.chat.completions.create(model="small", messages=ASK, stream=True))
    assert used(gateway) == round(4 * SMALL_COST * NANO)


def test_a_budget_holds_under_concurrency(start, upstream):
    # Room for ten calls' cost, but each reserves about twice its cost while it is under way.
    client, gateway = start(keys=budgeted(10 * SMALL_COST), policies={})

    def ask(_):
        try:
            return client.chat.completions.create(model="small", messages=ASK, max_tokens=3)
        except openai.RateLimitError as error:
            return error.code

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        results = list(pool.map(ask, range(60)))
    refusals = results.count("insufficient_quota")
    answers = len(results) - refusals
    assert refusals > 0
    assert answers == len(upstream.seen), "no call is made that is not paid for"
    assert used(gateway) == round(answers * SMALL_COST * NANO) <= round(10 * SMALL_COST * NANO)


def test_the_store_never_overspends(tmp_path):
    from roster.gateway.store import Row, Store

    stores = [Store("sqlite:///one.db", tmp_path) for _ in range(2)]

    async def race():
        asked = [stores[n % 2].reserve([Row("a", "total", 100)], 7) for n in range(50)]
        return sum(await asyncio.gather(*asked))

    assert asyncio.run(race()) == 14
    assert asyncio.run(stores[0].used("a", "total")) == 98
    for store in stores:
        store.close()


def test_a_dear_model_over_budget_makes_way_for_a_cheap_one(start):
    policies = {"auto": {"kind": "fixed", "models": ["large", "small"]}}
    client, _ = start(keys=budgeted(0.01), policies=policies)
    answer = client.chat.completions.create(model="auto", messages=ASK, max_tokens=50)
    assert answer.model == "small"
    assert [each["outcome"] for each in answer.roster["attempts"]] == ["over_budget", "answered"]


def test_a_failed_call_costs_nothing(start, upstream):
    upstream.does |= {"secret-small": "garbage", "secret-large": "garbage"}
    client, gateway = start(keys=budgeted(10.0))
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model="auto", messages=ASK)
    assert used(gateway) == 0


def test_a_budget_limits_the_answer(start, upstream):
    client, _ = start(keys=budgeted(1.0))
    client.chat.completions.create(model="small", messages=ASK)
    assert upstream.seen[0]["max_tokens"] == 4096


@pytest.mark.parametrize("given", [None, "Bearer wrong-key-0000000", "Basic " + ALICE, ALICE, "Bearer", "Bearer \xe9"])
def test_wrong_keys(start, http, given):
    client, _ = start()
    headers = {} if given is None else {"authorization": given.encode("latin-1")}
    response = http.get(f"{client.base_url}models", headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
    assert response.headers["www-authenticate"] == "Bearer"


def test_a_key_may_be_given_as_its_hash(start):
    keys = {"alice": {"sha256": hashlib.sha256(ALICE.encode()).hexdigest()}}
    client, _ = start(keys=keys)
    assert client.models.list().data


def test_without_keys_everybody_may_ask(start):
    client, _ = start(key="whatever", keys={})
    assert client.chat.completions.create(model="small", messages=ASK).model == "small"


def test_nothing_secret_is_logged_or_kept(upstream, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    with gateway_of(settings(upstream.url), tmp_path) as (url, _):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key=ALICE, max_retries=0)
        text = "a prompt that nobody should find"
        client.chat.completions.create(model="auto", messages=[{"role": "user", "content": text}])
        client.close()
        kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    told = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("roster"))
    assert "model=small" in told
    for secret in (ALICE, "upstream-secret-key", text):
        assert secret not in told
        assert secret.encode() not in kept


def test_prompts_are_kept_when_asked_for(start):
    client, gateway = start(log_prompts=True)
    answer = client.chat.completions.create(model="auto", messages=ASK)
    assert on_loop(gateway.store.call(answer.id)).prompt == "count to three"
