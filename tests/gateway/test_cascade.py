"""A cascade asks the small model first, looks at its confidence, and pays for both when it escalates."""

import pytest

from gateway.servers import LARGE_COST, SMALL_COST, WORDS
from roster.gateway.keys import NANO

ASK = [{"role": "user", "content": "count to three"}]
POLICIES = {"auto": {"kind": "cascade", "steps": ["small", "large"], "escalate_below": 0.8}}


def test_a_confident_answer_stays(start, upstream):
    client, _ = start(policies=POLICIES)
    answer = client.chat.completions.create(model="auto", messages=ASK)
    assert answer.model == "small"
    assert answer.roster["attempts"][0]["confidence"] == pytest.approx(0.95)
    assert answer.choices[0].logprobs is None, "the client did not ask for them"
    assert upstream.seen[0]["logprobs"] is True


def test_a_doubtful_answer_is_asked_again_and_both_are_paid(start, upstream):
    upstream.confidence = 0.5
    client, _ = start(policies=POLICIES)
    answer = client.chat.completions.create(model="auto", messages=ASK)
    assert answer.model == "large"
    assert answer.roster["cost"] == pytest.approx(SMALL_COST + LARGE_COST)
    assert [each["outcome"] for each in answer.roster["attempts"]] == ["escalated", "answered"]
    assert answer.roster["attempts"][0]["confidence"] == pytest.approx(0.5)
    assert "logprobs" not in upstream.seen[1]


@pytest.mark.parametrize("confidence", [0.95, 0.5])
def test_streams(start, upstream, confidence):
    upstream.confidence = confidence
    client, _ = start(policies=POLICIES)
    chunks = list(client.chat.completions.create(model="auto", messages=ASK, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "".join(WORDS)
    spoken = [chunk for chunk in chunks if chunk.choices[0].delta.content]
    assert (len(spoken) == 1) == (confidence > 0.8), "a whole answer comes in one piece"
    assert chunks[-1].roster["cost"] == pytest.approx(SMALL_COST + (LARGE_COST if confidence < 0.8 else 0))
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["stop"]


def test_text(start, upstream):
    upstream.confidence = 0.5
    client, _ = start(policies=POLICIES)
    answer = client.completions.create(model="auto", prompt="count", logprobs=0)
    assert answer.model == "large"
    assert answer.choices[0].logprobs is not None


def test_a_doubtful_answer_is_better_than_none(start, upstream):
    upstream.confidence = 0.5
    upstream.does["secret-large"] = "garbage"
    client, _ = start(policies=POLICIES)
    answer = client.chat.completions.create(model="auto", messages=ASK)
    assert answer.model == "small"
    assert [each["outcome"] for each in answer.roster["attempts"]] == ["answered", "garbage"]


def test_an_answer_that_shows_no_confidence_has_none(start, upstream):
    from starlette.responses import JSONResponse

    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "?"}}
    upstream.does["secret-small"] = JSONResponse({"choices": [choice]})
    client, _ = start(policies=POLICIES)
    assert client.chat.completions.create(model="auto", messages=ASK).model == "large"


def with_budget(name, budget):
    return {name: {"key": "alice-secret-0123456789", "budget": budget, "period": "total"}}


def test_a_budget_remembers_what_the_steps_before_have_spent(start, upstream):
    """What the dear model may cost at most fits into the whole budget, and no more into what the cheap one has left."""
    upstream.confidence = 0.5
    request = {"model": "auto", "messages": ASK, "max_tokens": 3}
    policies = {"auto": {"kind": "fixed", "models": ["large"]}}
    client, gateway = start(policies=policies, keys=with_budget("first", 1.0))
    reserve, amounts = gateway.ledger.reserve, []

    async def noted(rows, amount):
        amounts.append(amount)
        return await reserve(rows, amount)

    gateway.ledger.reserve = noted
    client.chat.completions.create(**request)
    (most,) = amounts
    for spare, model in ((2 * SMALL_COST, "large"), (SMALL_COST / 2, "small")):
        client, _ = start(policies=POLICIES, keys=with_budget(f"then-{model}", most / NANO + spare))
        answer = client.chat.completions.create(**request)
        assert answer.model == model
        assert len(answer.roster["attempts"]) == 2
