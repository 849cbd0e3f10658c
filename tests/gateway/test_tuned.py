"""A log becomes a policy's folder becomes a gateway's policy, by the commands that users type."""

import json

import httpx
from typer.testing import CliRunner

from gateway.servers import gateway_of, settings
from lm import tiny
from roster.cli import app

KEY = {"authorization": "Bearer alice-secret-0123456789"}
NAMES = {"cat-person": "small", "dog-person": "large"}


def run(*command):
    done = CliRunner().invoke(app, [str(word) for word in command], catch_exceptions=False)
    assert done.exit_code == 0, done.output


def test_what_was_tuned_routes_behind_the_gateway(upstream, tmp_path):
    records = tiny.records()
    lines = [
        {"prompt": prompt, "model": NAMES[model], "score": records.score_NM[n, m], "cost": records.cost_NM[n, m] / 1e5}
        | {"split": records.splits[n]}
        for n, prompt in enumerate(records.prompts)
        for m, model in enumerate(records.models)
        if model in NAMES
    ]
    log = tmp_path / "calls.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run("lm", "import", log, "--out", tmp_path / "records")
    run("lm", "tune", tmp_path / "records", "--router", "lm-knn", "--floor", "0.6", "--out", tmp_path / "tuned")
    config = settings(upstream.url, policies={"auto": {"kind": "folder", "path": "tuned"}})
    chosen = {}
    with gateway_of(config, tmp_path) as (url, _), httpx.Client(base_url=url, trust_env=False) as http:
        for prompt, kind in zip(records.prompts, records.datasets, strict=True):
            if kind in chosen:
                continue
            body = {"model": "auto", "messages": [{"role": "user", "content": prompt}]}
            reply = http.post("/v1/chat/completions", json=body, headers=KEY)
            assert reply.status_code == 200, reply.text
            told = reply.json()
            chosen[kind] = told["model"]
            assert told["roster"]["policy"] == "auto"
            assert float(reply.headers["x-roster-quality"]) > 0
    assert (chosen["cat"], chosen["dog"]) == ("small", "large")
