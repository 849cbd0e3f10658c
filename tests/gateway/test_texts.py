"""A tuned folder decides behind the gateway as it does offline: on the same text, and at the gateway's own prices."""

import json

import httpx
import numpy as np
import pytest

from gateway.servers import gateway_of, settings
from lm import tiny
from roster.gateway.passthrough import Responses
from roster.lm.decide import Weights
from roster.lm.estimate import KNN
from roster.lm.importing import Call, read_log
from roster.lm.offline import OfflinePolicy, load_policy
from roster.lm.prices import Price
from roster.lm.records import Logged
from roster.lm.splits import same
from roster.lm.text import RULES, request_text

KEY = {"authorization": "Bearer alice-secret-0123456789"}
NAMES = {"cat-person": "small", "dog-person": "large"}


def made(text="last-user", written=None):
    records = tiny.records(200).only(list(NAMES))
    records = tiny.Records(**{**vars(records), "models": tuple(NAMES.values())})
    if written is None:
        return records
    unknown_NM = np.full_like(records.score_NM, np.nan)
    return tiny.Records(
        **{**vars(records), "logged": Logged(text, unknown_NM, unknown_NM, np.full_like(unknown_NM, written))}
    )


def requests(prompts):
    """200 requests: (path, body, what stands in a log of them), in every form that texts come in."""
    for n, prompt in enumerate(prompts[:200]):
        other = prompts[(n * 7 + 3) % len(prompts)]
        turns = [{"role": "user", "content": other}, {"role": "assistant", "content": f"I like the {other}"}]
        parts = [{"type": "text", "text": prompt[:20]}, {"type": "text", "text": prompt[20:] + " \ud800 é"}]
        picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
        system = {"role": "system", "content": f"You love every {other}"}
        forms = [
            [{"role": "user", "content": prompt}],
            [{"role": "user", "content": [*parts, picture]}],
            [*turns, {"role": "user", "content": prompt}],
            [system, *turns, {"role": "user", "content": prompt}, {"role": "assistant", "content": None}],
            [system, {"role": "user", "content": parts}, {"role": "user", "content": [picture]}],
            [system],
            prompt,
        ]
        form = forms[n % len(forms)]
        if isinstance(form, str):
            yield {"prompt": form}
        else:
            yield {"messages": form}


@pytest.mark.parametrize("text", RULES)
def test_200_of_200_decisions_are_those_made_offline(text, upstream, tmp_path):
    records = made(text, written=100.0)
    asked = list(requests(records.prompts))
    lines = [json.dumps({**each, "model": "small", "score": 1}) + "\n" for each in asked]
    (tmp_path / "log.jsonl").write_text("".join(lines))
    OfflinePolicy("tuned", KNN(neighbours=9).fit(records), Weights(), text=text).save(tmp_path / "tuned")
    saved = load_policy(tmp_path / "tuned")
    assert saved.text == text
    offline, imported = [], set(map(same, read_log(tmp_path / "log.jsonl", text=text).prompts))
    config = settings(upstream.url, policies={"auto": {"kind": "folder", "path": "tuned"}})
    with gateway_of(config, tmp_path) as (url, _), httpx.Client(base_url=url, trust_env=False) as http:
        for each in asked:
            seen = Call.model_validate(json.loads(lines[len(offline)])).text(text)
            assert same(seen) in imported
            offline.append(saved.decide(seen).model)
            content = json.dumps({"model": "auto", **each})
            told = http.post("/v1/route", content=content, headers=KEY | {"content-type": "application/json"})
            assert told.status_code == 200, told.text
            assert told.json()["model"] == offline[-1], each
        for each in asked[:7]:  # the same where an answer is wanted
            path = "/v1/chat/completions" if "messages" in each else "/v1/completions"
            content = json.dumps({"model": "auto", **each})
            told = http.post(path, content=content, headers=KEY | {"content-type": "application/json"})
            assert told.status_code == 200, told.text
            assert told.json()["model"] == offline[asked.index(each)]
    assert len(offline) == 200
    assert len(set(offline)) == 2


def test_the_rules_differ_where_they_should():
    messages = [
        ("system", "s"), ("user", "a"), ("assistant", "b"),
        ("user", [{"text": "c"}, {"type": "image_url"}, {"text": "d"}]), ("tool", "t"), ("user", None),
    ]  # fmt: skip
    assert request_text(messages) == "c\nd"
    assert request_text(messages, "all-user") == "a\nc\nd"
    assert request_text(messages, "conversation") == "s\na\nb\nc\nd\nt\n"
    assert [request_text([("system", "s"), ("user", "")], rule) for rule in RULES] == ["s\n"] * 3


def policy(tmp_path, written, rule):
    records = made(written=written)
    OfflinePolicy("tuned", KNN(neighbours=9).fit(records), rule).save(tmp_path / "tuned")
    return records


def chosen(url, prompts, **more):
    with httpx.Client(base_url=url, trust_env=False) as http:
        bodies = [{"model": "auto", "prompt": prompt, **more} for prompt in prompts]
        return [http.post("/v1/route", json=body, headers=KEY).json() for body in bodies]


def priced(url, small, large):
    config = settings(url, policies={"auto": {"kind": "folder", "path": "tuned"}})
    for name, output in (("small", small), ("large", large)):
        config["models"][name]["price"] = {"input": 0.0, "output": output}
    return config


def test_a_tuned_policy_decides_at_the_prices_of_the_gateway(upstream, tmp_path):
    """Written as one that finds quality dear: whoever is cheaper here is asked, whatever the log said."""
    records = policy(tmp_path, 100.0, Weights(cost=1e6))
    prompts = records.prompts[:6]
    for small, large, wanted in ((1.0, 50.0, "small"), (50.0, 1.0, "large")):
        with gateway_of(priced(upstream.url, small, large), tmp_path) as (url, _):
            told = chosen(url, prompts)
            assert {each["model"] for each in told} == {wanted}
            assert told[0]["estimated_cost"] == pytest.approx(100 * 1.0 / 1e6)


def test_max_tokens_bound_what_a_call_costs(upstream, tmp_path):
    """The large model writes 100 tokens and the small one too; at most 1 makes the difference of prices too small."""
    records = policy(tmp_path, 100.0, Weights(cost=1e3))
    dog = next(prompt for prompt, kind in zip(records.prompts, records.datasets, strict=True) if kind == "dog")
    with gateway_of(priced(upstream.url, 1.0, 100.0), tmp_path) as (url, _):
        long, short = chosen(url, [dog])[0], chosen(url, [dog], max_tokens=1)[0]
    assert (long["model"], short["model"]) == ("small", "large")
    assert short["estimated_cost"] == pytest.approx(100 / 1e6)


def test_the_models_read_the_whole_conversation(upstream, tmp_path):
    policy(tmp_path, 0.0, Weights(cost=1e6))
    config = priced(upstream.url, 1.0, 1.0)
    config["models"]["small"]["price"]["input"] = 4.0
    config["models"]["large"]["price"]["input"] = 8.0
    messages = [{"role": "system", "content": "x" * 4000}, {"role": "user", "content": "a cat"}]
    with gateway_of(config, tmp_path) as (url, _), httpx.Client(base_url=url, trust_env=False) as http:
        told = http.post("/v1/route", json={"model": "auto", "messages": messages}, headers=KEY).json()
    assert told["estimated_cost"] == pytest.approx(4.0 * (4006 / 4) / 1e6)


def test_without_lengths_of_answers_the_costs_of_the_log_stay_and_that_is_said(upstream, tmp_path, caplog):
    records = policy(tmp_path, None, Weights(cost=1e6))
    with gateway_of(priced(upstream.url, 50.0, 1.0), tmp_path) as (url, _):
        assert {each["model"] for each in chosen(url, records.prompts[:4])} == {"small"}  # cheaper in the log
    assert "says nothing of the lengths of answers" in caplog.text


def test_lengths_follow_from_logged_costs_and_prices(tmp_path):
    prices = {"small": Price(1.0, 10.0)}
    line = {"prompt": "w" * 40, "model": "small", "score": 1, "cost": (10 * 1.0 + 30 * 10.0) / 1e6, "split": "train"}
    (tmp_path / "log.jsonl").write_text(json.dumps(line) + "\n")
    estimator = KNN().fit(read_log(tmp_path / "log.jsonl", prices=prices))
    dear = OfflinePolicy("p", estimator, Weights(), {"small": Price(2.0, 20.0)})
    assert dear.decide("w" * 40).cost == pytest.approx(2 * line["cost"])
    assert dear.decide("w" * 40, max_tokens=5).cost == pytest.approx((10 * 2.0 + 5 * 20.0) / 1e6)
    assert dear.decide("w" * 40, read=100).cost == pytest.approx((100 * 2.0 + 30 * 20.0) / 1e6)


def test_responses_are_read_by_the_same_rule():
    item = {"role": "user", "content": [{"type": "input_text", "text": "hello"}, {"type": "input_image"}]}
    call = {"type": "function_call_output", "output": "42"}
    earlier = {"role": "user", "content": "before"}
    asked = Responses(model="auto", instructions="be brief", input=[earlier, item, call])
    assert [asked.said().under(rule) for rule in RULES] == ["hello", "before\nhello", "be brief\nbefore\nhello\n"]
    assert Responses(model="auto", instructions="be brief", input="hello").said().under("last-user") == "hello"
