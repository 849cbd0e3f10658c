"""One limit of output tokens goes upstream, in the field that the model takes, and it is the one that budgets count."""

import contextlib
import json

import openai
import pytest
from starlette.responses import JSONResponse

from gateway.servers import on_loop, settings, whole
from gateway.test_failures import bearer
from roster.gateway.config_file import Config
from roster.gateway.keys import NANO
from roster.gateway.outgoing import limit_field

ASK = [{"role": "user", "content": "count to three"}]
FIELDS = ("max_tokens", "max_completion_tokens")
BUDGET = {"alice": {"key": "alice-secret-0123456789", "budget": 0.01, "period": "total"}}


def obeys(field):
    """A model that writes as much as one field allows, and for ever where that is missing."""

    def answer(body, headers):
        written = body.get(field, 100_000)
        usage = {"prompt_tokens": 10, "completion_tokens": written, "total_tokens": 10 + written}
        return JSONResponse(whole(body, True, 0.9, "") | {"usage": usage})

    return answer


def with_field(upstream, field, **up):
    changed = settings(upstream.url)
    changed["upstreams"]["up"] |= {"limit_field": field} | up
    return {"upstreams": changed["upstreams"]}


@pytest.mark.parametrize("obeyed", FIELDS)
@pytest.mark.parametrize("sent", [{}, {"max_tokens": 5}, {"max_completion_tokens": 5}, {"max_tokens": None}])
def test_a_budget_is_never_overspent(start, upstream, obeyed, sent):
    upstream.does["secret-small"] = obeys(obeyed)
    models = settings("")["models"]
    models["small"]["max_output"] = 200
    client, gateway = start(keys=BUDGET, models=models, **with_field(upstream, obeyed, drop=list(FIELDS)))
    for _ in range(4):
        with contextlib.suppress(openai.RateLimitError):
            client.chat.completions.create(model="small", messages=ASK, extra_body=sent)
    assert upstream.seen
    assert {tuple(field for field in FIELDS if field in body) for body in upstream.seen} == {(obeyed,)}
    assert 0 < on_loop(gateway.store.used("alice", "total")) <= 0.01 * NANO


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_both_limits_are_refused(start, upstream, http, path):
    client, _ = start()
    body = {"model": "small", "messages": ASK, "prompt": "x", "max_tokens": 1, "max_completion_tokens": 100_000}
    response = http.post(f"{client.base_url}{path}", json=body, headers=bearer(client))
    assert response.status_code == 400
    assert "one of them" in response.json()["error"]["message"]
    assert not upstream.seen


def test_text_has_one_limit_as_well(start, upstream):
    client, _ = start(**with_field(upstream, "max_completion_tokens"))
    client.completions.create(model="small", prompt="count", extra_body={"max_completion_tokens": 7})
    assert (upstream.seen[0]["max_tokens"], "max_completion_tokens" in upstream.seen[0]) == (7, False)


def test_responses_keep_their_limit(start, upstream, http):
    keys = {"alice": BUDGET["alice"] | {"budget": 10.0}}
    client, _ = start(keys=keys, **with_field(upstream, None, drop=["max_output_tokens"]))
    http.post(f"{client.base_url}responses", json={"model": "small", "input": "count"}, headers=bearer(client))
    assert upstream.seen[0]["max_output_tokens"] == 4096


def test_each_provider_has_its_field():
    config = settings("http://127.0.0.1:1")
    for name, url in {
        "open": "https://api.openai.com/v1",
        "azure": "https://n.openai.azure.com/x?api-version=1",
    }.items():
        config["upstreams"][name] = config["upstreams"]["up"] | {"url": url}
    config = Config.model_validate(config)
    model, ups = config.models["small"], config.upstreams
    assert [limit_field(model, ups[name], True) for name in ("up", "open", "azure")] == [
        FIELDS[0],
        FIELDS[1],
        FIELDS[1],
    ]
    assert limit_field(model, ups["open"], False) == "max_tokens"
    assert limit_field(model.model_copy(update={"limit_field": "max_tokens"}), ups["open"], True) == "max_tokens"


def test_a_request_that_needs_no_change_goes_out_byte_for_byte(start, upstream, http):
    models = settings("")["models"]
    models["secret-small"] = models.pop("small") | {"name": "secret-small"}
    client, _ = start(models=models, policies={})
    raw = b'{ "model": "secret-small", "odd": 1E2, "messages": [{"role":"user","content":"\xc3\xa9"}]}'
    headers = bearer(client) | {"content-type": "application/json"}
    http.post(f"{client.base_url}chat/completions", content=raw, headers=headers).raise_for_status()
    assert upstream.raw[0] == raw
    assert json.loads(raw) == upstream.seen[0]


def test_tokens_of_answers_count_against_the_minute(start, upstream):
    keys = {"alice": {"key": "alice-secret-0123456789", "tpm": 300}}
    client, _ = start(keys=keys)
    upstream.does["secret-small"] = lambda body, headers: JSONResponse(
        whole(body, True, 0.9, "") | {"usage": {"prompt_tokens": 100, "completion_tokens": 250, "total_tokens": 350}}
    )
    client.chat.completions.create(model="small", messages=ASK, max_tokens=60)
    with pytest.raises(openai.RateLimitError, match="tokens"):
        client.chat.completions.create(model="small", messages=ASK, max_tokens=60)
