"""Upstreams that fail in every way: another model answers, or the client gets an error that gives nothing away."""

import json
import time

import openai
import pytest
from starlette.responses import JSONResponse

from gateway.servers import BRIEF, PATIENT, WORDS, on_loop, settings

ASK = [{"role": "user", "content": "count to three"}]
SECRETS = ("127.0.0.1", "10.0.0.1", "upstream-secret-key", "secret-small", "secret-large")


def leaking(status, message="secret-small at http://127.0.0.1:9/v1 refused upstream-secret-key"):
    return JSONResponse({"error": {"message": message}}, status)


FAILS_WHOLE = {
    "status": leaking(500),
    "rate_limited": leaking(429),
    "credentials": leaking(401),
    "unknown_model": leaking(404),
    "garbage": "garbage",
    "timeout": "hangs",
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", FAILS_WHOLE)
def test_another_model_answers(start, upstream, kind, stream):
    upstream.does["secret-small"] = FAILS_WHOLE[kind]
    client, _ = start(timeouts=BRIEF if kind == "timeout" else PATIENT)
    answer = client.chat.completions.create(model="auto", messages=ASK, stream=stream)
    roster = list(answer)[-1].roster if stream else answer.roster
    assert roster["model"] == "large"
    assert [(each["model"], each["outcome"]) for each in roster["attempts"]] == [("small", kind), ("large", "answered")]


def test_nothing_listens(start):
    dead = settings("http://127.0.0.1:1")["upstreams"]["up"]
    client, gateway = start()
    upstreams = {"up": gateway.runtime.config.upstreams["up"].model_dump(), "dead": dead}
    upstreams["up"]["api_key"] = "upstream-secret-key"
    models = settings("")["models"]
    models["small"]["upstream"] = "dead"
    client, _ = start(upstreams=upstreams, models=models)
    answer = client.chat.completions.create(model="auto", messages=ASK)
    assert answer.roster["attempts"][0]["outcome"] == "connect"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", FAILS_WHOLE)
def test_nobody_answers(start, upstream, http, kind, stream):
    upstream.does |= {"secret-small": FAILS_WHOLE[kind], "secret-large": FAILS_WHOLE[kind]}
    client, _ = start(timeouts=BRIEF if kind == "timeout" else PATIENT)
    response = post(http, client, {"model": "auto", "messages": ASK, "stream": stream})
    assert response.status_code == {"timeout": 504, "rate_limited": 429}.get(kind, 502)
    told = response.json()
    assert told["error"]["code"] == ("rate_limit_exceeded" if kind == "rate_limited" else "upstream_failed")
    assert [each["outcome"] for each in told["roster"]["attempts"]] == [kind, kind]
    assert not any(secret in response.text + str(response.headers) for secret in SECRETS)


def test_a_request_that_the_model_refuses_is_the_clients_error(start, upstream, http):
    upstream.does["secret-small"] = leaking(
        400, "secret-small at http://10.0.0.1/v1 (key upstream-secret-key): too long"
    )
    client, _ = start()
    response = post(http, client, {"model": "auto", "messages": ASK})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "refused_by_model"
    assert "too long" in response.text
    assert not any(secret in response.text for secret in SECRETS)
    assert len(upstream.seen) == 1


@pytest.mark.parametrize(
    ("behaviour", "kind"),
    [("stops", "stopped"), ("garbage later", "garbage"), ("error later", "reported"), ("endless", "timeout")],
)
def test_an_answer_that_breaks_off_ends_in_an_error_event(start, upstream, http, behaviour, kind):
    upstream.does["secret-small"] = behaviour
    client, gateway = start(timeouts=BRIEF if kind == "timeout" else PATIENT)
    events = stream(http, client, {"model": "small", "messages": ASK, "stream": True})
    assert events[0]["choices"][0]["delta"]["content"] == WORDS[0]
    assert events[-1]["error"]["code"] == "upstream_failed"
    assert events[-1]["roster"]["attempts"][-1]["outcome"] == kind
    assert events[-1]["roster"]["cost"] > 0, "what went through is paid"
    assert "[DONE]" not in events
    assert not any(secret in str(events) for secret in SECRETS)
    with pytest.raises(openai.APIError):
        list(client.chat.completions.create(model="small", messages=ASK, stream=True))
    assert idle(gateway)


def test_a_client_that_goes_away_stops_the_upstream_and_pays(start, upstream, http):
    upstream.does["secret-small"] = "endless"
    up = settings(upstream.url)["upstreams"]["up"] | {"timeouts": {"total": 60.0}}
    keys = {"alice": {"key": "alice-secret-0123456789", "budget": 1.0}}
    client, gateway = start(upstreams={"up": up}, keys=keys)
    body = {"model": "small", "messages": ASK, "stream": True}
    with http.stream("POST", f"{client.base_url}chat/completions", json=body, headers=bearer(client)) as response:
        call = response.headers["x-roster-id"]
        next(response.iter_lines())
    assert upstream.cancelled.wait(5)
    assert eventually(lambda: on_loop(gateway.store.call(call)) is not None)
    assert on_loop(gateway.store.call(call)).outcome == "disconnected"
    period = gateway.keyring.caller(bearer(client)["authorization"]).accounts[0].period_now()
    spent = on_loop(gateway.store.used("alice", period))
    assert 0 < spent < 1_000_000, "the reservation is given back"
    assert idle(gateway)


def test_an_upstream_that_fails_is_left_alone_and_tried_again(start, upstream):
    upstream.does["secret-small"] = leaking(500)
    up = settings(upstream.url)["upstreams"]["up"] | {"breaker": {"failures": 2, "cooldown": 0.3}}
    client, _ = start(upstreams={"up": up})
    for _ in range(2):
        with pytest.raises(openai.InternalServerError):
            client.chat.completions.create(model="small", messages=ASK)
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="small", messages=ASK)
    assert (caught.value.status_code, caught.value.code) == (503, "unavailable")
    assert int(caught.value.response.headers["retry-after"]) >= 1
    assert len(upstream.seen) == 2
    del upstream.does["secret-small"]
    time.sleep(0.35)
    assert client.chat.completions.create(model="small", messages=ASK).model == "small"
    assert client.chat.completions.create(model="small", messages=ASK).model == "small"


def bearer(client):
    return {"authorization": f"Bearer {client.api_key}"}


def post(http, client, body):
    return http.post(f"{client.base_url}chat/completions", json=body, headers=bearer(client))


def stream(http, client, body):
    lines = post(http, client, body).text.splitlines()
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    return [each if each == "[DONE]" else json.loads(each) for each in data]


def eventually(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def idle(gateway):
    return eventually(lambda: not any(gateway.runtime.ways.in_flight.values()))
