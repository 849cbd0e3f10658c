"""Answers through the gateway, as the openai client sees them."""

import openai
import pytest

from gateway.servers import SMALL_COST, WORDS

ASK = [{"role": "user", "content": "count to three"}]


def test_chat_by_policy(start, upstream):
    client, _ = start()
    answer = client.chat.completions.with_raw_response.create(model="auto", messages=ASK)
    headers, answer = answer.headers, answer.parse()
    assert answer.choices[0].message.content == "".join(WORDS)
    assert (answer.model, answer.usage.completion_tokens) == ("small", 3)
    assert answer.roster["policy"] == "auto"
    assert answer.roster["reason"] == "first choice"
    assert answer.roster["cost"] == pytest.approx(SMALL_COST)
    assert answer.roster["attempts"] == [{"model": "small", "outcome": "answered", "cost": pytest.approx(SMALL_COST)}]
    assert headers["x-roster-model"] == "small"
    assert headers["x-roster-id"] == answer.id
    assert answer.id.startswith("chatcmpl-")
    assert float(headers["x-roster-cost"]) == pytest.approx(SMALL_COST)
    assert upstream.seen[0]["model"] == "secret-small"
    assert upstream.headers[0]["authorization"] == "Bearer upstream-secret-key"


def test_a_model_by_name_passes_through(start):
    client, _ = start()
    answer = client.chat.completions.create(model="large", messages=ASK)
    assert (answer.model, answer.roster["policy"]) == ("large", None)


def test_text_completion(start):
    client, _ = start()
    answer = client.completions.create(model="auto", prompt="count", max_tokens=5)
    assert answer.choices[0].text == "".join(WORDS)
    assert answer.id.startswith("cmpl-")


@pytest.mark.parametrize("wants_usage", [True, False])
@pytest.mark.parametrize("behaviour", ["answers", "like transformers"])
def test_chat_stream(start, upstream, wants_usage, behaviour):
    upstream.does["secret-small"] = behaviour
    client, _ = start()
    options = {"stream_options": {"include_usage": True}} if wants_usage else {}
    chunks = list(client.chat.completions.create(model="auto", messages=ASK, stream=True, **options))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "".join(WORDS)
    assert {chunk.model for chunk in chunks} == {"small"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].roster["cost"] == pytest.approx(SMALL_COST)
    assert not chunks[-1].roster["usage_estimated"]
    assert (chunks[-1].usage is not None) == wants_usage
    assert bool(chunks[-1].choices) != wants_usage
    assert upstream.seen[0]["stream_options"] == {"include_usage": True}


def test_text_stream(start):
    client, _ = start()
    chunks = list(client.completions.create(model="large", prompt="count", stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "".join(WORDS)
    assert chunks[-1].roster["model"] == "large"


def test_models_and_policies_are_listed(start):
    client, _ = start()
    listed = {each.id: each.roster for each in client.models.list()}
    assert list(listed) == ["auto", "small", "large"]
    assert listed["small"]["price_per_million_tokens"] == {"input": 1.0, "output": 10.0}


def test_unknown_model_is_a_structured_404(start):
    client, _ = start()
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="smal", messages=ASK)
    assert caught.value.code == "model_not_found"
    assert "did you mean 'small'?" in caught.value.message


def test_usage_is_guessed_and_says_so(start, upstream):
    upstream.does["secret-small"] = "without usage"
    client, _ = start()
    answer = client.chat.completions.create(model="small", messages=ASK)
    assert answer.roster["usage_estimated"]
    assert answer.usage.completion_tokens == 14  # 13 bytes and an end
    answer = client.chat.completions.create(model="small", messages=ASK, max_tokens=5)
    assert answer.usage.completion_tokens == 5, "no guess is above what the model was allowed to write"


def test_other_fields_reach_the_upstream_and_dropped_ones_do_not(start, upstream):
    from gateway.servers import settings

    upstreams = settings(upstream.url)["upstreams"]
    upstreams["up"]["drop"] = ["user", "stream_options"]
    client, _ = start(upstreams=upstreams)
    list(client.chat.completions.create(model="small", messages=ASK, temperature=0.5, user="me", stream=True))
    assert upstream.seen[0]["temperature"] == 0.5
    assert not {"user", "stream_options"} & upstream.seen[0].keys()
