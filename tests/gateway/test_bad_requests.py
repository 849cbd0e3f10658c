"""Requests that cannot be served: structured errors, whatever comes; and a fuzzer that reads our own description."""

import json

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from gateway import servers

KEY = {"authorization": "Bearer alice-secret-0123456789"}
ASK = [{"role": "user", "content": "count to three"}]
BODIES = {
    "nothing": b"",
    "not JSON": b"{",
    "not UTF-8": b'{"model": "\xff"}',
    "NaN": b'{"model": "small", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
    "too large a number": b'{"model": "small", "messages": [{"role": "user", "content": "x"}], "seed": 1e999}',
    "too many digits": b'{"model": "small", "seed": ' + b"9" * 5000 + b"}",
    "too deep": b"[" * 100_000,
    "a list": b"[]",
    "no model": json.dumps({"messages": ASK}).encode(),
    "no messages": b'{"model": "small"}',
    "empty messages": b'{"model": "small", "messages": []}',
    "a message without role": b'{"model": "small", "messages": [{"content": "x"}]}',
    "a number for a flag": json.dumps({"model": "small", "messages": ASK, "stream": 1}).encode(),
    "no tokens": json.dumps({"model": "small", "messages": ASK, "max_tokens": 0}).encode(),
}


@pytest.mark.parametrize("case", BODIES)
def test_malformed_bodies(start, http, upstream, case):
    client, _ = start()
    headers = KEY | {"content-type": "application/json"}
    response = http.post(f"{client.base_url}chat/completions", content=BODIES[case], headers=headers)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert len(response.text) < 500, "the body is not repeated"
    assert not upstream.seen


def test_lone_surrogates_pass(start, http):
    client, _ = start(log_prompts=True)
    body = b'{"model": "auto", "messages": [{"role": "user", "content": "\\ud800 and \\u0000"}]}'
    headers = KEY | {"content-type": "application/json"}
    assert http.post(f"{client.base_url}chat/completions", content=body, headers=headers).status_code == 200


@pytest.mark.parametrize("declared", [True, False])
def test_too_large(start, http, upstream, declared):
    client, _ = start(limits={"request_bytes": 2048})
    body = json.dumps({"model": "small", "messages": ASK, "user": "x" * 4096}).encode()
    content = body if declared else iter([body[:1000], body[1000:]])
    headers = KEY | {"content-type": "application/json"}
    response = http.post(f"{client.base_url}chat/completions", content=content, headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")
    assert not upstream.seen


def test_unknown_paths_and_methods(start, http):
    client, _ = start()
    assert http.get(f"{client.base_url}nothing", headers=KEY).json()["error"]["code"] == "not_found"
    response = http.get(f"{client.base_url}chat/completions", headers=KEY)
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert response.json()["error"]["code"] == "method_not_allowed"


def test_health_and_metrics(start, http):
    client, _ = start()
    client.chat.completions.create(model="auto", messages=ASK)
    root = str(client.base_url).removesuffix("/v1/")
    assert http.get(f"{root}/health").json() == {"status": "ok"}
    text = http.get(f"{root}/metrics").text
    assert 'roster_decisions_total{model="small",policy="auto"} 1.0' in text
    assert 'roster_attempts_total{model="small",outcome="answered"} 1.0' in text
    assert 'roster_requests_total{path="/v1/chat/completions",status="200"} 1.0' in text
    assert 'roster_tokens_total{kind="completion",model="small"} 3.0' in text


def test_route_decides_without_a_call(start, http, upstream):
    client, _ = start()
    body = {"model": "auto", "prompt": "count", "max_tokens": 10}
    told = http.post(f"{client.base_url}route", json=body, headers=KEY).json()
    assert (told["policy"], told["model"], told["reason"]) == ("auto", "small", "first choice")
    assert told["estimated_cost"] == pytest.approx((2 * 1.0 + 10 * 10.0) / 1e6)
    assert http.post(f"{client.base_url}route", json=body | {"model": "large"}, headers=KEY).json()["model"] == "large"
    assert http.post(f"{client.base_url}route", json=body | {"model": "x"}, headers=KEY).status_code == 404
    assert http.post(f"{client.base_url}route", json={"model": "auto"}, headers=KEY).status_code == 400
    assert not upstream.seen


@pytest.fixture(scope="module")
def fuzzed(only_upstream, tmp_path_factory):
    only_upstream.forget()
    folder = tmp_path_factory.mktemp("fuzz")
    with servers.gateway_of(servers.settings(only_upstream.url), folder) as (url, _):
        yield url


CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
OPERATIONS = [
    ("/v1/chat/completions", "POST"),
    ("/v1/completions", "POST"),
    ("/v1/embeddings", "POST"),
    ("/v1/responses", "POST"),
    ("/v1/models", "GET"),
    ("/v1/models/{name}", "GET"),
    ("/v1/route", "POST"),
    ("/v1/feedback", "POST"),
    ("/health", "GET"),
    ("/metrics", "GET"),
]


def test_every_operation_is_fuzzed(fuzzed):
    paths = httpx.get(f"{fuzzed}/openapi.json", trust_env=False).json()["paths"]
    assert {(path, method.upper()) for path, methods in paths.items() for method in methods} == set(OPERATIONS)


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_every_path_under_v1_needs_a_key(fuzzed, path, method):
    status = httpx.request(method, f"{fuzzed}{path}", trust_env=False).status_code
    assert (status == 401) == path.startswith("/v1")


CASES = [(*each, mode) for each in OPERATIONS for mode in GenerationMode if each[1] == "POST" or mode.is_positive]


@pytest.mark.parametrize(("path", "method", "mode"), CASES)
def test_the_gateway_keeps_to_its_own_description(fuzzed, path, method, mode):
    described = schemathesis.openapi.from_dict(httpx.get(f"{fuzzed}/openapi.json", trust_env=False).json())
    operation = described[path][method]

    @settings(
        max_examples=15,
        derandomize=True,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],  # a failure is clear enough without minutes of shrinking
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def holds(case):
        generates = mode.is_positive and path != "/v1/feedback" and method == "POST"
        if generates:
            case.body["model"] = "auto"  # names drawn at random would all end in 404
        response = case.call_and_validate(base_url=fuzzed, headers=KEY, checks=CHECKS, timeout=5)
        assert response.status_code == 200 or not generates, response.text

    holds()
