"""A mixture whose router decides once per prompt: its rows share their passes with those that name an adapter."""

import httpx
import pytest
import torch

from gateway.servers import running
from roster import load, pocket
from roster.auto.explain import explain
from roster.library import Library
from roster.serve.app import create_app
from roster.serve.engine import Engine
from roster.serve.jobs import Routed
from roster.serve.serving import make_server
from serve.test_engine import job, told, written

PROMPTS = ["reverse: abcd =", "sort: dbca =", "upper: abc =", "Tell me about the sea.", "vowels: banana ="]


@pytest.fixture(scope="module")
def mixture():
    everything = Library.read(pocket.experts_path())
    few = Library({name: everything[name] for name in ("reverse", "sort", "upper", "vowels")})
    return load("pocket", experts=few, router="auto").eval()


def alone(mixture, prompt, limit):
    inputs = mixture.inputs(prompt)
    with torch.inference_mode():
        out = mixture.generate(**inputs, max_new_tokens=limit, do_sample=False, eos_token_id=[-1])
    return out[0, inputs["input_ids"].shape[1] :].tolist()


def test_all_rows_share_their_passes_and_answer_as_alone(mixture):
    engine = Engine(mixture)
    jobs = [job(mixture.roster.rendering.ids(prompt), limit=6 + at) for at, prompt in enumerate(PROMPTS)]
    named = job(mixture.roster.rendering.ids(PROMPTS[0]), torch.eye(len(mixture.roster.experts))[1], 6)
    for each in (*jobs, named):
        engine.submit(each)  # before it starts, so that all are admitted at once
    engine.start()
    try:
        for at, (each, prompt) in enumerate(zip(jobs, PROMPTS, strict=True)):
            first, *_ = events = told(each)
            assert first == Routed(pytest.approx(explain(mixture, prompt).weights, abs=1e-6))
            found = [event.id for event in events if hasattr(event, "id")]
            assert found == alone(mixture, prompt, 6 + at)
        assert len(written(named)) == 6
        assert engine.steps == 6 + len(PROMPTS) - 2, "one pass a token, for as long as the longest answer"
    finally:
        engine.stop()


def test_it_says_why(mixture):
    with running(create_app(make_server(mixture))) as url, httpx.Client(base_url=url, trust_env=False) as http:
        told = http.post("/v1/trace", json={"prompt": PROMPTS[0], "answer": "dcba"}, timeout=600).json()
    found = explain(mixture, PROMPTS[0])
    assert (told["why"], told["ranking"][0][0]) == (found.why, found.ranking[0].expert)
    assert [each[1] for each in told["nearest"]] == [example for _, example, _ in found.nearest]
    weights = dict(zip(told["experts"], told["weights"][-1], strict=True))
    assert {name: weight for name, weight in weights.items() if weight} == pytest.approx(found.weights, abs=1e-4)
