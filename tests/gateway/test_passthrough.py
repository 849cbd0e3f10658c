"""/v1/embeddings and /v1/responses: passed through, counted, within budgets."""

import json

import openai
import pytest

from gateway.servers import SMALL_COST, on_loop
from gateway.test_budgets import budgeted, used
from gateway.test_failures import SECRETS, eventually, idle, leaking
from gateway.test_tracing import PARENT, TRACE, traced
from gateway.test_ways import replicas, sibling
from roster.gateway.passed import renamed

EMBEDDING_COST = 10 * 1.0 / 1e6
BOTH = pytest.mark.parametrize("path", ["embeddings", "responses"])
FIXTURES = (sibling, traced)


def test_embeddings(start, upstream):
    client, gateway = start(keys=budgeted(1.0))
    told = client.embeddings.create(model="small", input=["a text"], encoding_format="float")
    assert told.data[0].embedding == [0.5, 0.25]
    assert upstream.seen[0] == {"model": "secret-small", "input": ["a text"], "encoding_format": "float"}
    assert eventually(lambda: used(gateway) == round(EMBEDDING_COST * 1e9))
    assert idle(gateway)


@pytest.mark.parametrize("stream", [False, True])
def test_responses(start, upstream, stream):
    client, gateway = start(keys=budgeted(1.0))
    told = client.responses.create(model="auto", input="count", instructions="be brief", stream=stream)
    if stream:
        *_, last = told
        told = last.response
    assert told.output_text == "one two three"
    assert upstream.seen[0]["instructions"] == "be brief"
    assert upstream.seen[0]["max_output_tokens"] == 4096, "a budget limits the answer"
    assert eventually(lambda: used(gateway) == round(SMALL_COST * 1e9))
    rows = on_loop(
        gateway.store.do(lambda database: database.run("SELECT policy, model, outcome FROM calls").fetchall())
    )
    assert rows == [("auto", "small", "answered")]
    assert idle(gateway)


def test_answers_pass_byte_for_byte(start, upstream, http):
    client, _ = start()
    headers = {"authorization": f"Bearer {client.api_key}"}
    body = {"model": "small", "input": "x", "odd": 1.0}
    told = http.post(f"{client.base_url}embeddings", json=body, headers=headers)
    assert b'"odd":1.0' in told.content
    assert b'"model":"small"' in told.content
    assert json.dumps(upstream.seen[0]).count("1.0") == 1


@BOTH
def test_budgets_and_failures(start, upstream, http, path):
    client, gateway = start(keys=budgeted(1.0) | {"poor": {"key": "poor-secret-0123456789", "budget": 1e-6}})
    url, body = f"{client.base_url}{path}", {"model": "small", "input": "x"}

    def ask(key):
        return http.post(url, json=body, headers={"authorization": f"Bearer {key}"})

    assert ask("poor-secret-0123456789").json()["error"]["code"] == "insufficient_quota"
    assert not upstream.seen
    upstream.does["secret-small"] = leaking(500)
    failed = ask(client.api_key)
    assert (failed.status_code, failed.json()["error"]["code"]) == (502, "upstream_failed")
    assert not any(secret in failed.text for secret in SECRETS)
    assert eventually(lambda: used(gateway) == 0)
    upstream.does["secret-small"] = leaking(400, "secret-small at http://10.0.0.1/v1: too long")
    refused = ask(client.api_key)
    assert (refused.status_code, "too long" in refused.text) == (400, True)
    assert not any(secret in refused.text for secret in SECRETS)
    assert eventually(lambda: used(gateway) == 0)
    assert ask("nobody-secret-0123456789").status_code == 401
    assert idle(gateway)


@BOTH
def test_a_sibling_is_tried(start, upstream, sibling, http, path):
    upstream.does["secret-small"] = leaking(503)
    client, _ = start(**replicas(upstream, sibling))
    for _ in range(2):
        told = http.post(
            f"{client.base_url}{path}",
            json={"model": "small", "input": "x"},
            headers={"authorization": f"Bearer {client.api_key}"},
        )
        assert told.status_code == 200
    assert len(sibling.seen) == 2


def test_models_are_checked(start):
    client, _ = start()
    with pytest.raises(openai.NotFoundError, match="did you mean 'small'"):
        client.embeddings.create(model="smal", input="x")
    with pytest.raises(openai.BadRequestError):
        client.post("/responses", body={"model": "small"}, cast_to=object)


@pytest.mark.parametrize("cut", [1, 3, 7, 1000])
def test_only_the_models_name_is_changed_wherever_the_network_cuts(cut):
    said = 'the field "model": "theirs/x" was meant'
    event = {"response": {"model": "theirs/x", "output": said, "id": "theirs/x"}, "model": "theirs/x"}
    raw = b"".join(
        [b": ping\n\n", b"data: " + json.dumps(event).encode() + b"\n\n", b'data: {"model":"theirs/xy"}\n\n']
    )

    async def pieces():
        for at in range(0, len(raw), cut):
            yield raw[at : at + cut]

    async def whole():
        return b"".join([part async for part in renamed(pieces(), "theirs/x", "ours")])

    lines = on_loop(whole()).splitlines()
    expected = {"response": {"model": "ours", "output": said, "id": "theirs/x"}, "model": "ours"}
    assert json.loads(lines[2][6:]) == expected
    assert [lines[0], lines[4]] == [b": ping", b'data: {"model":"theirs/xy"}']


def test_an_event_is_passed_on_when_its_line_ends():
    async def pieces():
        yield b'data: {"a": 1}\n\n'
        raise AssertionError("more was read before the event went on")

    async def first():
        return await anext(renamed(pieces(), "theirs", "ours"))

    assert on_loop(first()) == b'data: {"a": 1}\n\n'


@pytest.mark.parametrize("stream", [False, True])
def test_responses_name_the_gateways_model(start, stream):
    client, _ = start()
    told = client.responses.create(model="auto", input="count", stream=stream)
    assert ([*told][-1].response if stream else told).model == "small"


@BOTH
def test_they_are_traced_and_counted(traced, upstream, http, path):
    client, gateway, spans = traced
    headers = {"authorization": f"Bearer {client.api_key}", "traceparent": f"00-{TRACE}-{PARENT}-01"}
    body = {"model": "small", "input": "a prompt that nobody should find"}
    assert http.post(f"{client.base_url}{path}", json=body, headers=headers).status_code == 200
    assert eventually(lambda: len(spans()) == 2)
    call, request = spans()
    assert (request.name, f"{request.context.trace_id:032x}") == (f"{path} small", TRACE)
    assert (call.parent.span_id, call.attributes["gen_ai.usage.input_tokens"]) == (request.context.span_id, 10)
    upstream.does["secret-small"] = leaking(500)
    assert http.post(f"{client.base_url}{path}", json=body, headers=headers).status_code == 502
    assert eventually(lambda: len(spans()) == 4)
    assert [span.status.is_ok for span in spans()] == [True, True, False, False]
    told = "".join(span.to_json() for span in spans())
    assert not any(secret in told for secret in (*SECRETS, "nobody should find", client.api_key))
    text = gateway.scrape().decode()
    for line in (
        'roster_tokens_total{kind="prompt",model="small"} 10.0',
        'roster_attempts_total{model="small",outcome="answered"} 1.0',
        'roster_attempts_total{model="small",outcome="status"} 1.0',
        'roster_answer_seconds_count{model="small"} 2.0',
    ):
        assert line in text
