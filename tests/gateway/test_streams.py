"""Streams as upstreams really send them reach the client whole, at once, and with all that they say."""

import asyncio
import codecs
import json
import time

import openai
import pytest
from starlette.responses import JSONResponse, StreamingResponse

from gateway.servers import PATIENT, on_loop, settings, sse, whole
from gateway.test_counting import delta, streaming
from gateway.test_failures import bearer, eventually, idle, post, stream

ASK = [{"role": "user", "content": "count to three"}]
USAGE = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}
TEXT, FINISH = delta({"content": "one two three"}), delta({}, "stop")
ODD = {
    "usage without choices": [TEXT, FINISH, {"usage": USAGE}],
    "usage with null choices": [TEXT, FINISH, {"choices": None, "usage": USAGE}],
    "empty data": [b"data:\n\n", TEXT, b"data: \n\n", FINISH, {"choices": [], "usage": USAGE}],
    "pings": [b": ping\n\nevent: ping\ndata: {}\n\n", TEXT, {"type": "ping"}, FINISH, {"choices": [], "usage": USAGE}],
    "null error": [TEXT | {"error": None}, FINISH, {"choices": [], "usage": USAGE, "error": None}],
    "byte order mark": [codecs.BOM_UTF8 + sse(TEXT), FINISH, {"choices": [], "usage": USAGE}],
    "unknown fields": [b"x-trace: 7\nretry: 5\n" + sse(TEXT), FINISH, b"time: 1\n\n", {"choices": [], "usage": USAGE}],
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_streams_are_read(start, upstream, kind):
    upstream.does["secret-small"] = streaming(*ODD[kind], b"data: [DONE]\n\n")
    client, _ = start()
    chunks = list(client.chat.completions.create(model="small", messages=ASK, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "one two three"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["stop"]
    assert chunks[-1].roster["usage_counted"] == "upstream"
    with client.chat.completions.stream(model="small", messages=ASK) as events:
        assert events.get_final_completion().choices[0].message.content == "one two three"


@pytest.mark.parametrize("garbage", [b"<html>\n\n", b"data: [1]\n\n", b'data: {"choices": 5}\n\n'])
def test_what_is_no_stream_is_still_refused(start, upstream, garbage):
    upstream.does["secret-small"] = streaming(garbage)
    client, _ = start()
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model="small", messages=ASK, stream=True)


def test_a_finish_is_not_held_back_and_silence_is_kept_alive(start, upstream, http):
    upstream.does["secret-small"] = streaming(TEXT, FINISH, then="hangs")
    client, _ = start(listen={"keep_alive": 0.1})
    body = {"model": "small", "messages": ASK, "stream": True}
    with http.stream("POST", f"{client.base_url}chat/completions", json=body, headers=bearer(client)) as response:
        lines = response.iter_lines()
        assert any('"finish_reason":"stop"' in next(lines) for _ in range(6))
        assert any(next(lines).startswith(": ") for _ in range(4))


def slow(pause, pings):
    async def send():
        yield sse(TEXT)
        for _ in range(8):
            await asyncio.sleep(pause / 8)
            if pings:
                yield b": still thinking\n\n"
        yield sse(FINISH)

    return lambda body, headers: StreamingResponse(send(), media_type="text/event-stream")


@pytest.mark.parametrize("pings", [False, True])
def test_a_gap_ends_a_stream_unless_the_upstream_shows_life(start, upstream, http, pings):
    upstream.does["secret-small"] = slow(1.6, pings)
    up = settings(upstream.url)["upstreams"]["up"] | {"timeouts": PATIENT | {"gap": 0.8}}
    client, _ = start(upstreams={"up": up})
    begun = time.monotonic()
    events = stream(http, client, {"model": "small", "messages": ASK, "stream": True})
    assert (events[-1] == "[DONE]") == pings
    assert pings or events[-1]["roster"]["attempts"][-1]["outcome"] == "timeout"
    assert time.monotonic() - begun < 6


def test_fields_of_chunks_without_choices_pass(start, upstream):
    first = {"id": "u", "choices": [], "prompt_filter_results": [{"index": 0}]}
    last = {"id": "u", "choices": [], "usage": USAGE, "timings": {"ms": 1.5}}
    upstream.does["secret-small"] = streaming(first, TEXT, FINISH, last)
    client, _ = start()
    options = {"stream_options": {"include_usage": True}}
    chunks = list(client.chat.completions.create(model="small", messages=ASK, stream=True, **options))
    assert chunks[0].prompt_filter_results == [{"index": 0}]
    assert (chunks[-1].timings, chunks[-1].usage.total_tokens) == ({"ms": 1.5}, 13)
    assert chunks[-1].roster["upstream_id"] == "u"
    assert sum(chunk.usage is not None for chunk in chunks) == 1


def test_continuous_usage_passes_where_it_was_asked_for(start, upstream):
    counted = [TEXT | {"usage": USAGE | {"completion_tokens": 1}}, FINISH | {"usage": USAGE}]
    upstream.does["secret-small"] = streaming(*counted)
    client, _ = start()
    for options, expected in (({"continuous_usage_stats": True}, 3), ({}, 1)):
        told = client.chat.completions.create(
            model="small", messages=ASK, stream=True, stream_options={"include_usage": True} | options
        )
        assert sum(chunk.usage is not None for chunk in told) == expected


@pytest.mark.parametrize("streamed", [False, True])
def test_headers_pass_both_ways(start, upstream, http, streamed):
    def answer(body, headers):
        told = {"x-request-id": "up-7", "x-ratelimit-remaining-requests": "41", "set-cookie": "secret=1"}
        made = streaming(TEXT, FINISH)(body, headers) if streamed else JSONResponse(whole(body, True, 0.9, ""))
        made.headers.update(told)
        return made

    upstream.does["secret-small"] = answer
    client, _ = start()
    trace = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
    headers = bearer(client) | {"traceparent": trace, "x-request-id": "mine", "cookie": "x=1"}
    body = {"model": "small", "messages": ASK, "stream": streamed}
    told = http.post(f"{client.base_url}chat/completions", json=body, headers=headers).headers
    assert (told["x-request-id"], told["x-ratelimit-remaining-requests"]) == ("up-7", "41")
    assert "set-cookie" not in told
    assert (upstream.headers[0]["traceparent"], upstream.headers[0]["x-request-id"]) == (trace, "mine")
    assert "cookie" not in upstream.headers[0]


@pytest.mark.parametrize("streamed", [False, True])
def test_lone_surrogates_are_never_a_mistake_of_the_gateway(start, upstream, http, streamed):
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "a\ud83d"}}
    upstream.does["secret-small"] = (
        streaming(b'data: {"choices":[{"index":0,"delta":{"content":"a\\ud83d"},"finish_reason":"stop"}]}\n\n')
        if streamed
        else lambda body, headers: AsciiAnswer({"choices": [choice]})
    )
    client, _ = start(log_prompts=True, policies={"auto": {"kind": "thompson", "models": ["small"]}})
    body = json.dumps({"model": "auto", "stream": streamed, "messages": [{"role": "user", "content": "x\ud83d"}]})
    headers = bearer(client) | {"content-type": "application/json"}
    response = http.post(f"{client.base_url}chat/completions", content=body, headers=headers)
    assert response.status_code == 200
    assert "\\ud83d" in response.text
    refused = JSONResponse({"error": {"message": "?"}}, 400)
    refused.body = b'{"error": {"message": "bad \\ud83d"}}'
    refused.headers["content-length"] = str(len(refused.body))
    upstream.does["secret-small"] = refused
    assert post(http, client, {"model": "auto", "messages": ASK}).status_code == 400
    for path, odd in (("feedback", '{"id": "\\ud83d", "score": 1}'), ("route", '{"prompt": "\\ud83d"}')):
        response = http.post(f"{client.base_url}{path}", content=odd, headers=headers)
        assert response.status_code < 500, path


class AsciiAnswer(JSONResponse):
    """Says lone surrogates, as Python's own `json.dumps` does."""

    def render(self, content):
        return json.dumps(content).encode()


def late(pause, *parts):
    """An upstream that thinks before it says anything."""

    async def send():
        await asyncio.sleep(pause)
        for part in parts:
            yield sse(part)

    return lambda body, headers: StreamingResponse(send(), media_type="text/event-stream")


def test_silence_before_the_first_chunk_is_kept_alive(start, upstream, http):
    upstream.does["secret-small"] = late(0.7, TEXT, FINISH)
    client, _ = start(listen={"keep_alive": 0.1})
    body = {"model": "small", "messages": ASK, "stream": True}
    with http.stream("POST", f"{client.base_url}chat/completions", json=body, headers=bearer(client)) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line]
    first = next(at for at, line in enumerate(lines) if line.startswith("data: "))
    assert first >= 3, "comments come while the model thinks"
    assert all(line.startswith(": ") for line in lines[:first])
    assert (lines[-1], json.loads(lines[-2][6:])["roster"]["model"]) == ("data: [DONE]", "small")
    told = client.chat.completions.create(model="small", messages=ASK, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in told) == "one two three"


def test_a_stream_that_is_never_silent_gets_no_comments(start, upstream, http):
    async def steady():
        for _ in range(8):
            yield sse(TEXT)
            await asyncio.sleep(0.25)
        yield sse(FINISH)

    upstream.does["secret-small"] = lambda body, headers: StreamingResponse(steady(), media_type="text/event-stream")
    client, _ = start(listen={"keep_alive": 1.5})
    body = {"model": "small", "messages": ASK, "stream": True}
    with http.stream("POST", f"{client.base_url}chat/completions", json=body, headers=bearer(client)) as response:
        assert not [line for line in response.iter_lines() if line.startswith(":")]


def test_a_failure_after_a_long_silence_is_an_error_event(start, upstream, http):
    upstream.does |= {"secret-small": late(0.5, {"error": {"message": "secret"}}), "secret-large": "stops"}
    client, gateway = start(listen={"keep_alive": 0.1})
    events = [each for each in stream(http, client, {"model": "small", "messages": ASK, "stream": True}) if each]
    assert events[-1]["error"]["code"] == "upstream_failed"
    assert events[-1]["roster"]["attempts"][0]["outcome"] == "reported"
    with pytest.raises(openai.APIError, match="No model answered"):
        list(client.chat.completions.create(model="small", messages=ASK, stream=True))
    assert idle(gateway)


def test_a_client_that_leaves_a_silent_model_stops_it(start, upstream, http):
    upstream.does["secret-small"] = "hangs"
    client, gateway = start(listen={"keep_alive": 0.05})
    body = {"model": "small", "messages": ASK, "stream": True}
    with http.stream("POST", f"{client.base_url}chat/completions", json=body, headers=bearer(client)) as response:
        call = response.headers["x-roster-id"]
        lines = response.iter_lines()  # which ends the call when nobody has it any more
        assert next(lines).startswith(": ")
        assert eventually(lambda: gateway.runtime.ways.in_flight["small@up"] == 1)
    assert idle(gateway)
    assert eventually(lambda: on_loop(gateway.store.call(call)) is not None)
    assert on_loop(gateway.store.call(call)).outcome == "abandoned"
