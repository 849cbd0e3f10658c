"""Who leaves, or whose upstream does not count, pays for all that was produced; an upstream's counts are exact."""

import asyncio

import pytest
from starlette.responses import JSONResponse, StreamingResponse
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from gateway.servers import on_loop, settings, sse, whole
from gateway.test_failures import bearer, eventually
from roster.gateway.config import Price
from roster.gateway.keys import NANO
from roster.gateway.prices import cost, most, read_usage

ASK = [{"role": "user", "content": "count to three"}]
TOOL = {"type": "function", "function": {"name": "look_up", "description": "d" * 3000, "parameters": {}}}
ARGUMENTS = {"index": 0, "id": "c", "type": "function", "function": {"name": "look_up", "arguments": "x" * 100}}
PRODUCED = {
    "content": ({"content": "word " * 20}, 100),
    "cjk": ({"content": "漢" * 40}, 40),
    "reasoning": ({"reasoning_content": "t" * 100}, 100),
    "reasoning twice": ({"reasoning": "t" * 100, "reasoning_content": "t" * 100}, 100),
    "tool": ({"tool_calls": [ARGUMENTS]}, 107),
    "function": ({"function_call": {"name": "look_up", "arguments": "x" * 100}}, 107),
    "refusal": ({"refusal": "n" * 100}, 100),
}


def streaming(*events, then=None):
    """A stream that sends events, and then ends, or hangs."""

    async def send():
        for each in events:
            yield each if isinstance(each, bytes) else sse(each)
        if then == "hangs":
            await asyncio.sleep(30)

    return lambda body, headers: StreamingResponse(send(), media_type="text/event-stream")


def delta(delta, finish=None, **more):
    return {"id": "u", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]} | more


@pytest.mark.parametrize("leaves", [False, True])
@pytest.mark.parametrize("kind", PRODUCED)
def test_everything_that_was_produced_is_paid(start, upstream, http, kind, leaves):
    written, least = PRODUCED[kind]
    events = [delta(written)] if leaves else [delta(written), delta({}, "stop"), b"data: [DONE]\n\n"]
    upstream.does["secret-small"] = streaming(*events, then="hangs" if leaves else None)
    client, gateway = start()
    body = {"model": "small", "messages": ASK, "stream": True}
    with http.stream("POST", f"{client.base_url}chat/completions", json=body, headers=bearer(client)) as response:
        id = response.headers["x-roster-id"]
        next(response.iter_lines()) if leaves else response.read()
    call = recorded(gateway, id)
    assert least <= call.completion_tokens <= 3 * least + 70
    assert call.context.counted == "bound"


@pytest.mark.parametrize("kind", PRODUCED)
def test_a_whole_answer_without_usage_too(start, upstream, kind):
    written, least = PRODUCED[kind]
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant"} | written}
    upstream.does["secret-small"] = JSONResponse({"choices": [choice]})
    client, _ = start()
    answer = client.chat.completions.create(model="small", messages=ASK)
    assert least <= answer.usage.completion_tokens <= 3 * least + 70


def test_definitions_of_tools_are_read_too(start, upstream):
    upstream.does["secret-small"] = "without usage"
    client, gateway = start()
    answer = client.chat.completions.create(model="small", messages=ASK, tools=[TOOL])
    assert answer.usage.prompt_tokens >= 3000
    assert recorded(gateway, answer.id).context.counted == "bound"


def test_a_bound_is_never_more_than_was_reserved(start, upstream):
    upstream.does["secret-small"] = "without usage"
    client, _ = start()
    assert client.chat.completions.create(model="small", messages=ASK, max_tokens=3).usage.completion_tokens == 3
    models = settings("")["models"]
    models["small"]["max_output"] = 5
    client, _ = start(models=models)
    told = client.chat.completions.create(model="small", messages=ASK)
    assert told.usage.completion_tokens == 14, "no limit was sent"


def test_a_tokenizer_counts_where_there_is_one(start, upstream, tmp_path):
    vocabulary = {"[UNK]": 0, "one": 1, "two": 2, "three": 3, "count": 4, "to": 5}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    upstream.does["secret-small"] = "without usage"
    models = settings("")["models"]
    models["small"]["tokenizer"] = "tokenizer.json"
    client, gateway = start(models=models)
    answer = client.chat.completions.create(model="small", messages=ASK)
    assert answer.usage.completion_tokens == 4, "three words and an end"
    assert answer.roster["usage_counted"] == recorded(gateway, answer.id).context.counted == "tokenizer"


def test_what_comes_after_the_last_count_is_paid(start, upstream, http):
    first = {"usage": {"prompt_tokens": 10, "completion_tokens": 0, "total_tokens": 10}}
    upstream.does["secret-small"] = streaming(delta({"content": ""}, **first), delta({"content": "x" * 50}, "stop"))
    client, _ = start()
    chunks = list(client.chat.completions.create(model="small", messages=ASK, stream=True))
    assert chunks[-1].roster["usage_counted"] == "bound"
    assert chunks[-1].roster["cost"] >= (10 + 50 * 10) / 1e6


def test_usage_passes_untouched_and_its_parts_have_prices(start, upstream):
    usage = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150, "cost": 0.125, "odd": {"x": None}}
    usage |= {"prompt_tokens_details": {"cached_tokens": 80}, "completion_tokens_details": {"reasoning_tokens": 30}}
    upstream.does["secret-small"] = lambda body, headers: (
        streaming(delta({"content": "x"}, "stop"), {"choices": [], "usage": usage})(body, headers)
        if body.get("stream")
        else JSONResponse(whole(body, True, 0.9, "") | {"usage": usage})
    )
    models = settings("")["models"]
    models["small"]["price"] |= {"cached_input": 0.1, "reasoning": 20.0}
    client, gateway = start(models=models)
    exact = (20 * 1.0 + 80 * 0.1 + 20 * 10.0 + 30 * 20.0) / 1e6
    answer = client.chat.completions.create(model="small", messages=ASK)
    assert answer.usage.model_dump(exclude_unset=True) == usage
    assert answer.roster["cost"] == pytest.approx(exact)
    options = {"stream_options": {"include_usage": True}}
    *_, last = client.chat.completions.create(model="small", messages=ASK, stream=True, **options)
    assert last.usage.model_dump(exclude_unset=True) == usage
    assert last.roster["cost"] == pytest.approx(exact)
    assert recorded(gateway, answer.id).context.counted == "upstream"


def test_parts_of_usage_are_read_as_providers_write_them():
    price = Price(input=1.0, output=10.0, cached_input=0.0, reasoning=30.0)
    said = {"prompt_tokens": 10, "completion_tokens": 5}
    assert read_usage(said | {"total_tokens": 40}).completion == 30, "thoughts that are only in the total"
    assert read_usage(said | {"prompt_cache_hit_tokens": 4}).cached == 4
    assert read_usage(said | {"prompt_tokens_details": {"cached_tokens": 99}}).cached == 10
    assert read_usage(said | {"prompt_tokens_details": None, "completion_tokens_details": 7}).reasoning == 0
    assert most(price, 10, 5) >= cost(price, read_usage(said | {"completion_tokens_details": {"reasoning_tokens": 5}}))


def test_a_picture_is_reserved_by_its_rule(start):
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 50_000}}
    ask = [{"role": "user", "content": [{"type": "text", "text": "what is it?"}, picture]}]
    models = settings("")["models"]
    models["small"]["image_tokens"] = 1445
    keys = {"alice": {"key": "alice-secret-0123456789", "budget": 0.003, "period": "total"}}
    client, gateway = start(models=models, keys=keys)
    answer = client.chat.completions.create(model="small", messages=ask, max_tokens=3)
    assert answer.model == "small", "the length of its text would have cost 0.05"
    assert on_loop(gateway.store.used("alice", "total")) < 0.003 * NANO


def recorded(gateway, id):
    assert eventually(lambda: on_loop(gateway.store.call(id)) is not None)
    return on_loop(gateway.store.call(id))
