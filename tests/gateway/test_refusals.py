"""What upstreams refuse reaches the client as its library knows it, and another model is asked where that can help."""

import json

import openai
import pytest
from starlette.responses import JSONResponse

from gateway.servers import settings
from gateway.test_failures import leaking, post

ASK = [{"role": "user", "content": "count to three"}]
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "required": ["at"]}}}]
PICTURE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://example.org/x.png"}}]}]
TOO_LONG = {
    "openai": {"message": "maximum context length is 8 tokens", "code": "context_length_exceeded", "param": "messages"},
    "vllm": {"message": "This model's maximum context length is 8 tokens.", "type": "BadRequestError", "code": 400},
    "llama.cpp": {"message": "the request exceeds the available context size", "type": "exceed_context_size_error"},
    "anthropic": {"message": "prompt is too long: 9 tokens > 8 maximum", "type": "invalid_request_error"},
}
WRONG_SORT = {
    "vllm": "secret-small is not a multimodal model",
    "ollama": "this model does not support tools",
    "openai": "Invalid content type. image_url is not supported by this model.",
}


def refusing(error, status=400, **headers):
    return JSONResponse(
        {"error": error}, status, headers={name.replace("_", "-"): text for name, text in headers.items()}
    )


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["small", "auto"])
def test_a_rate_limit_stays_one(start, upstream, model, stream):
    for name, wait in (("secret-small", "7"), ("secret-large", "9")):
        upstream.does[name] = refusing({"message": "slow down"}, 429, retry_after=wait)
    client, _ = start()
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model=model, messages=ASK, stream=stream)
    assert (caught.value.code, caught.value.response.headers["retry-after"]) == ("rate_limit_exceeded", "7")


def test_a_rate_limit_of_responses_stays_one(start, upstream):
    upstream.does["secret-small"] = refusing({"message": "slow down"}, 429, retry_after="7")
    client, _ = start()
    with pytest.raises(openai.RateLimitError) as caught:
        client.responses.create(model="small", input="count")
    assert caught.value.response.headers["retry-after"] == "7"


@pytest.mark.parametrize("provider", TOO_LONG)
def test_a_prompt_that_is_too_long_goes_to_the_next_model(start, upstream, provider):
    upstream.does["secret-small"] = refusing(TOO_LONG[provider])
    client, _ = start(limits={"retries": 0})
    answer = client.chat.completions.create(model="auto", messages=ASK)
    assert [each["outcome"] for each in answer.roster["attempts"]] == ["unfit", "answered"]
    upstream.does["secret-large"] = upstream.does["secret-small"]
    for model in ("small", "auto"):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model=model, messages=ASK)
        assert caught.value.code == "context_length_exceeded"
        assert caught.value.param == TOO_LONG[provider].get("param")


@pytest.mark.parametrize("provider", WRONG_SORT)
def test_what_a_model_cannot_read_goes_to_the_next(start, upstream, provider):
    upstream.does["secret-small"] = refusing({"message": WRONG_SORT[provider]})
    client, _ = start()
    assert client.chat.completions.create(model="auto", messages=ASK).model == "large"
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="small", messages=ASK)
    assert caught.value.code == "unsupported_modality"


def test_other_refusals_are_told_once(start, upstream):
    error = {"message": "Unsupported value: temperature", "code": "unsupported_value", "param": "temperature"}
    upstream.does["secret-small"] = refusing(error)
    client, _ = start()
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="auto", messages=ASK)
    assert (caught.value.code, caught.value.param, len(upstream.seen)) == ("unsupported_value", "temperature", 1)


def test_details_of_a_validating_server_survive(start, upstream, http):
    detail = [{"loc": ["body", "top_p"], "msg": "at http://10.0.0.1: must be <= 1", "type": "x", "input": "secret"}]
    upstream.does["secret-small"] = JSONResponse({"detail": detail}, 422)
    client, _ = start()
    response = post(http, client, {"model": "small", "messages": ASK})
    assert (response.status_code, response.json()["detail"][0]["loc"]) == (422, ["body", "top_p"])
    assert "body.top_p" in response.json()["error"]["message"]
    assert "10.0.0.1" not in response.text
    assert "secret" not in response.text


DECLARED = {
    "context": ({"context": 5}, {"messages": [{"role": "user", "content": "x" * 40}]}, "context_length_exceeded"),
    "modalities": ({"modalities": ["text"]}, {"messages": PICTURE}, "unsupported_modality"),
    "tools": ({"tools": False}, {"messages": ASK, "tools": TOOLS}, "unsupported_tools"),
}


@pytest.mark.parametrize("what", DECLARED)
def test_what_is_declared_is_respected_before_calling(start, upstream, what):
    declared, body, code = DECLARED[what]
    models = settings("")["models"]
    models["small"] |= declared
    client, _ = start(models=models)
    answer = client.chat.completions.create(model="auto", **body)
    assert (answer.model, len(answer.roster["attempts"]), len(upstream.seen)) == ("large", 1, 1)
    assert client.chat.completions.create(model="auto", messages=ASK).model == "small"
    models["large"] |= declared
    client, _ = start(models=models)
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="auto", **body)
    assert (caught.value.code, len(upstream.seen)) == (code, 2)


def calling(arguments, name="look"):
    call = {"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}}
    message = {"role": "assistant", "content": None, "tool_calls": [call, call]}
    usage = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}
    return JSONResponse({"choices": [{"index": 0, "finish_reason": "tool_calls", "message": message}], "usage": usage})


@pytest.mark.parametrize(
    ("answer", "rule", "model"),
    [
        (calling('{"at": 1}'), "valid", "small"),
        (calling("{}"), "valid", "large"),
        (calling("{nonsense"), "valid", "large"),
        (calling('{"at": 1}', "other"), "valid", "large"),
        (calling("{nonsense"), "accept", "small"),
        (calling('{"at": 1}'), "escalate", "large"),
    ],
)
def test_calls_of_tools_without_logprobs_have_a_rule(start, upstream, answer, rule, model):
    upstream.does["secret-small"] = answer
    policies = {"auto": {"kind": "cascade", "steps": ["small", "large"], "escalate_below": 0.8, "tool_calls": rule}}
    client, _ = start(policies=policies)
    chunks = list(client.chat.completions.create(model="auto", messages=ASK, tools=TOOLS, stream=True))
    assert chunks[-1].roster["model"] == model
    if model == "small":
        assert [call.index for call in chunks[0].choices[0].delta.tool_calls] == [0, 1]


def test_a_refusal_without_words_is_one(start, upstream):
    upstream.does["secret-small"] = leaking(400, json.loads("null"))
    client, _ = start()
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="small", messages=ASK)
    assert caught.value.code == "refused_by_model"


@pytest.mark.parametrize("path", ["chat", "responses"])
def test_an_upstream_that_asks_for_time_gets_it(start, upstream, path):
    """Retry-After reaches the circuit from both roads: it stays open longer than its own cooldown."""
    upstream.does["secret-small"] = refusing({"message": "slow down"}, 429, retry_after="60")
    up = settings(upstream.url)["upstreams"]["up"] | {"breaker": {"failures": 1, "cooldown": 0.1}}
    client, gateway = start(upstreams={"up": up})
    ask = {
        "chat": lambda: client.chat.completions.create(model="small", messages=ASK),
        "responses": lambda: client.responses.create(model="small", input="count"),
    }
    with pytest.raises(openai.RateLimitError):
        ask[path]()
    assert 30 < gateway.runtime.ways.by_model["small"][0].breaker.wait <= 60
