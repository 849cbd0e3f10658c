"""A tuned FrugalGPT behind the gateway: answers are judged by their texts, as offline, and every call is paid."""

import json

import numpy as np
import pytest
from starlette.responses import JSONResponse

from gateway.servers import LARGE_COST, SMALL_COST, gateway_of, settings
from lm import tiny
from roster.lm.decide import Cascade
from roster.lm.estimate import Mean
from roster.lm.frugal import AnswerScorer
from roster.lm.offline import OfflinePolicy, load_policy

NAMES = {"cat-person": "small", "dear-all-rounder": "large"}


@pytest.fixture(scope="module")
def records():
    made = tiny.told_apart(200, slips=0.1).only(list(NAMES))
    return tiny.Records(**{**vars(made), "models": tuple(NAMES.values())})


@pytest.fixture(scope="module")
def folder(records, tmp_path_factory):
    learn = records.split("train")
    path = tmp_path_factory.mktemp("judged")
    rule = Cascade(tuple(NAMES.values()), 0.5)
    OfflinePolicy("frugal", Mean().fit(learn), rule, judge=AnswerScorer().fit(learn)).save(path / "frugal")
    return path


@pytest.fixture
def client(upstream, folder):
    import openai

    config = settings(upstream.url, policies={"auto": {"kind": "folder", "path": "frugal"}})
    config["models"]["small"].pop("logprobs", None)
    with gateway_of(config, folder) as (url, _):
        yield openai.OpenAI(base_url=f"{url}/v1", api_key="alice-secret-0123456789", max_retries=0)


def says(upstream, model, text, **more):
    message = {"role": "assistant", "content": text, **more}
    choice = {"index": 0, "finish_reason": "stop", "message": message, "text": text}
    usage = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}
    upstream.does[f"secret-{model}"] = JSONResponse({"id": "x", "choices": [choice], "usage": usage})


def test_who_answers_is_what_the_records_say(client, upstream, folder, records):
    """40 of 40: the model that is kept and whom the request is billed for, as a replay on the same answers has it."""
    saved, test = load_policy(folder / "frugal"), records.split("test")
    kept = []
    for n in range(40):
        small, large = test.answer_NM[n]
        says(upstream, "small", small)
        says(upstream, "large", large)
        sure = saved.confidence(test.prompts[n], small)
        answer = client.chat.completions.create(
            model="auto",
            messages=[{"role": "system", "content": "be brief"}, {"role": "user", "content": test.prompts[n]}],
        )
        expected = "small" if sure >= 0.5 else "large"
        assert (answer.model, answer.choices[0].message.content) == (expected, small if expected == "small" else large)
        assert answer.roster["attempts"][0]["confidence"] == pytest.approx(sure, abs=1e-4)  # four places are shown
        assert answer.roster["cost"] == pytest.approx(SMALL_COST + (LARGE_COST if expected == "large" else 0))
        kept.append(expected)
    assert set(kept) == {"small", "large"}
    assert all("logprobs" not in each for each in upstream.seen), "no log-probability is needed"


def test_streams_and_text(client, upstream):
    says(upstream, "small", "perhaps 1")
    chunks = list(
        client.chat.completions.create(model="auto", messages=[{"role": "user", "content": "?"}], stream=True)
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "one two three"
    assert client.completions.create(model="auto", prompt="?").model == "large"
    says(upstream, "small", "surely 1")
    assert client.completions.create(model="auto", prompt="?").model == "small"


def test_tool_calls_and_silence(client, upstream):
    tool = {"type": "function", "function": {"name": "look", "parameters": {"required": ["at"]}}}
    ask = {"model": "auto", "messages": [{"role": "user", "content": "?"}], "tools": [tool]}
    for arguments, model in (('{"at": 1}', "small"), ("{}", "large")):
        call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": arguments}}
        says(upstream, "small", None, tool_calls=[call])
        assert client.chat.completions.create(**ask).model == model
    says(upstream, "small", "")
    assert client.chat.completions.create(**ask).model == "large", "an answer without text shows no confidence"


def test_a_request_sets_the_threshold(client, upstream):
    says(upstream, "small", "perhaps 1")
    ask = [{"role": "user", "content": "?"}]
    assert client.chat.completions.create(model="auto:0.0", messages=ask).model == "small"
    says(upstream, "small", "surely 1")
    assert client.chat.completions.create(model="auto:1.0", messages=ask).model == "large"


def test_the_folder_is_json_and_safetensors(folder, records):
    content = json.loads((folder / "frugal" / "roster.json").read_text())
    assert content["judge"]["class"] == "AnswerScorer"
    again = load_policy(folder / "frugal")
    judge = AnswerScorer().fit(records.split("train"))
    said = [str(a) for a in records.answer_NM[:20, 0]]
    assert np.allclose(
        [again.confidence(p, a) for p, a in zip(records.prompts, said, strict=False)],
        judge.confidence(list(records.prompts[:20]), said),
    )
