"""Feedback: online policies learn, and what they learned survives a kill at any moment."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time

import httpx
import pytest
import yaml

from gateway.servers import free_port, gateway_of, on_loop, settings

ASK = [{"role": "user", "content": "count to three"}]
LEARNING = {"auto": {"kind": "thompson", "features": 8, "seed": 0}}
KEY = {"authorization": "Bearer alice-secret-0123456789"}


def score(http, client, **body):
    return http.post(f"{client.base_url}feedback", json=body, headers=KEY)


def test_an_online_policy_learns_which_model_is_better(start, http):
    client, _ = start(policies=LEARNING)
    chosen = []
    for _ in range(60):
        answer = client.chat.completions.create(model="auto", messages=ASK)
        told = score(http, client, id=answer.id, score=1.0 if answer.model == "large" else 0.0).json()
        assert told["learned"], told
        chosen.append(answer.model)
    assert "small" in chosen[:20], "it tried both"
    assert chosen[-20:].count("large") >= 18
    decision = http.post(f"{client.base_url}route", json={"messages": ASK}, headers=KEY).json()
    assert decision["quality_by_model"]["large"] > decision["quality_by_model"]["small"] + 0.3


def test_what_was_learned_is_there_after_a_restart(upstream, tmp_path):
    config = settings(upstream.url, policies=LEARNING)
    ask = {"json": {"messages": ASK}, "headers": KEY}
    with gateway_of(config, tmp_path) as (url, gateway), httpx.Client(base_url=url, trust_env=False) as http:
        for _ in range(5):
            call = http.post("/v1/chat/completions", json={"model": "auto", "messages": ASK}, headers=KEY).json()
            http.post("/v1/feedback", json={"id": call["id"], "score": 0.9}, headers=KEY)
        before = http.post("/v1/route", **ask).json()["quality_by_model"]
        kept = gateway.runtime.learners["auto"].policy.state()
        asked = http.post("/v1/chat/completions", json={"model": "auto", "messages": ASK}, headers=KEY).json()
    with gateway_of(config, tmp_path) as (url, gateway), httpx.Client(base_url=url, trust_env=False) as http:
        assert gateway.runtime.learners["auto"].policy.state() == kept
        assert http.post("/v1/route", **ask).json()["quality_by_model"] == before
        late = {"id": asked["id"], "score": 1.0}
        told = http.post("/v1/feedback", json=late | {"messages": ASK}, headers=KEY).json()
        assert told["learned"], "the prompt was sent along"
        assert http.post("/v1/feedback", json=late, headers=KEY).status_code == 409


def test_without_the_prompt_the_score_is_kept_and_nothing_learned(start, http):
    client, gateway = start(policies=LEARNING, limits={"remembered_prompts": 0})
    answer = client.chat.completions.create(model="auto", messages=ASK)
    told = score(http, client, id=answer.id, score=1.0).json()
    assert not told["learned"]
    assert "send it along" in told["reason"]
    assert on_loop(gateway.store.learned("auto")) is None


def test_whose_call(start, http):
    client, _ = start(policies=LEARNING)
    answer = client.chat.completions.create(model="auto", messages=ASK)
    body, bob = {"id": answer.id, "score": 1}, {"authorization": "Bearer bob-secret-9876543210"}
    assert http.post(f"{client.base_url}feedback", json=body, headers=bob).status_code == 404
    assert score(http, client, id="nobody's", score=1).json()["error"]["code"] == "call_not_found"
    assert score(http, client, id=answer.id, score=1.5).status_code == 400
    assert score(http, client, **body).status_code == 200
    assert score(http, client, **body).json()["error"]["code"] == "already_scored"


def test_streamed_answers_can_be_scored(start, http):
    client, _ = start(policies=LEARNING)
    chunks = list(client.chat.completions.create(model="auto", messages=ASK, stream=True))
    assert score(http, client, id=chunks[0].id, score=1.0).json()["learned"]


def test_two_gateways_learn_one_thing(upstream, tmp_path):
    config = settings(upstream.url, policies=LEARNING)
    with gateway_of(config, tmp_path) as (one, first), gateway_of(config, tmp_path) as (two, second):
        with httpx.Client(trust_env=False) as http:
            for url in (one, two, one, two):
                body = {"model": "auto", "messages": ASK}
                call = http.post(f"{url}/v1/chat/completions", json=body, headers=KEY).json()
                http.post(f"{url}/v1/feedback", json={"id": call["id"], "score": 1.0}, headers=KEY)
        on_loop(first._catch_up())
        assert on_loop(first.store.learned("auto")).version == 4
        states = [each.runtime.learners["auto"].policy.state() for each in (first, second)]
        assert states[0] == states[1]


def test_killed_in_the_middle(upstream, tmp_path):
    """SIGKILL while scores pour in: every score that was acknowledged is there, with what was learned from it."""
    config = settings(upstream.url, policies=LEARNING) | {"listen": {"host": "127.0.0.1", "port": free_port()}}
    config["keys"]["alice"] |= {"budget": 100.0, "period": "total"}
    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump(config))
    url = f"http://127.0.0.1:{config['listen']['port']}"
    acknowledged = []

    async def pour(gateway):
        async with httpx.AsyncClient(base_url=url, headers=KEY, trust_env=False) as http:

            async def one():
                while True:
                    body = {"model": "auto", "messages": ASK, "max_tokens": 5}
                    call = (await http.post("/v1/chat/completions", json=body)).json()
                    told = await http.post("/v1/feedback", json={"id": call["id"], "score": 0.75})
                    assert told.json()["learned"]
                    acknowledged.append(call["id"])

            pouring = [asyncio.create_task(one()) for _ in range(4)]
            while len(acknowledged) < 25:
                await asyncio.sleep(0.01)
                assert not any(task.done() for task in pouring)
            gateway.send_signal(signal.SIGKILL)
            await asyncio.gather(*pouring, return_exceptions=True)

    with gateway_process(path, url) as gateway:
        asyncio.run(pour(gateway))
        gateway.wait(10)
    with gateway_of(config, tmp_path) as (_, gateway):
        learned = on_loop(gateway.store.learned("auto"))
        assert len(acknowledged) <= learned.version <= len(acknowledged) + 4
        for call in acknowledged:
            assert on_loop(gateway.store.call(call)).outcome == "answered"
        # Each answer added features f with |f|^2 = 2 and score - 1/2 = 1/4 along f, so the targets count them.
        policy = gateway.runtime.learners["auto"].policy
        constant = sum(belief.target_D[-1] for belief in policy._beliefs.values())
        assert constant == pytest.approx(learned.version / 4)
        assert on_loop(gateway.store.used("alice", "total")) >= 40_000 * len(acknowledged)


@contextlib.contextmanager
def gateway_process(path, url):
    """`roster gateway` in a process of its own, once it answers."""
    command = [sys.executable, "-c", "from roster.cli import main; main()", "gateway", str(path)]
    with path.with_suffix(".log").open("w+b") as log:
        process = subprocess.Popen(command, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
        try:
            end = time.monotonic() + 90
            while not answers(url):
                assert process.poll() is None, path.with_suffix(".log").read_text()
                assert time.monotonic() < end, path.with_suffix(".log").read_text()
                time.sleep(0.05)
            yield process
        finally:
            process.kill()
            process.wait(10)


def answers(url):
    try:
        return httpx.get(f"{url}/health", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
