"""`roster lm`: what it prints and what it refuses; that the examples run is tested with all the others."""

import json

from cli.conftest import refuse, succeed
from lm import tiny
from texts import needed


def test_from_a_log_to_a_policy(here):
    needed("routellm-mt-bench")
    log = succeed("lm", "log", "routellm-mt-bench", "--count", 72)
    (here / "log.jsonl").write_text(log)
    said = succeed("lm", "import", "log.jsonl", "--out", "records")
    assert "72 prompts, 2 models" in said
    assert "missing: 0 of 144 scores, 0 of 144 costs, 144 of 144 delays" in said
    found = json.loads(succeed("lm", "eval", "records", "--router", "modem", "--draws", 20, "--json", "--out", "r"))
    assert {row["router"] for row in found["sections"][0]["rows"]} >= {"modem", "lm-dataset-lookup", "lm-oracle"}
    assert (here / "r" / "report.html").is_file()
    said = succeed("lm", "tune", "records", "--router", "lm-kmeans", "--budget", 0.5, "--out", "policy")
    assert "target: mean cost at most 0.5" in said
    assert "test: quality" in said
    assert json.loads(succeed("lm", "route", "policy", "Write a poem."))["model"]


def test_refusals(here):
    needed("zeroeval")
    needed("llmrouter")
    assert "did you mean 'carrot-router'" in refuse("lm", "eval", "zeroeval", "--router", "carot-router")
    assert "did you mean 'zeroeval'" in refuse("lm", "eval", "zeroevl")
    assert "unknown router among models 'arrow-mbc'" in refuse("lm", "eval", "zeroeval", "--router", "arrow-mbc")
    assert "compares answers" in refuse("lm", "eval", "llmrouter", "--router", "smoothie")
    assert "no model 'gpt-9'" in refuse("lm", "eval", "zeroeval", "--add", "gpt-9")
    assert "either a budget or a quality floor" in refuse("lm", "tune", "zeroeval", "--out", "p")
    assert "told every prompt's data set" in refuse(
        "lm", "tune", "zeroeval", "--router", "lm-dataset-lookup", "--budget", 1, "--out", "p"
    )
    assert "is not a policy's folder: it has no roster.json" in refuse("lm", "route", here, "hello")
    assert "'nowhere.jsonl'" in refuse("lm", "import", "nowhere.jsonl", "--out", "records")
    assert not (here / "p").exists()


def test_votes(here):
    lines = []
    for n in range(400):
        kind = ("poem", "sum")[n % 2]
        winner = "model_a" if (n // 2 % 7 > 0) == (kind == "poem") else "model_b"
        row = {
            "prompt": f"a {kind} on {n}, no {'x' * (n % 3)}",
            "model_a": "poet",
            "model_b": "solver",
            "winner": winner,
        }
        lines.append(json.dumps(row))
    (here / "votes.jsonl").write_text("\n".join(lines))
    said = succeed("lm", "import", "votes.jsonl", "--out", "votes")
    assert "400 votes, 2 models: poet, solver" in said
    said = succeed("lm", "eval", "votes", "--draws", 20, "--out", "r")
    assert said.startswith("A ranking per prompt foresees more")
    assert (here / "r" / "report.html").is_file()
    assert json.loads(succeed("lm", "eval", "votes", "--draws", 20, "--json"))["data"] == "votes"
    assert "holds votes" in refuse("lm", "eval", "votes", "--router", "lm-knn")
    assert "Input should be 'lm-records'" in refuse("lm", "tune", "votes", "--budget", 1, "--out", "p")


def test_a_log_of_live_traffic(here):
    made = tiny.records(600)
    lines = []
    for n, prompt in enumerate(made.prompts):
        m = n * 7 % 3
        row = {"prompt": f"{prompt} {n}", "model": made.models[m], "score": made.score_NM[n, m], "propensity": 1 / 3}
        lines.append(json.dumps(row | {"cost": made.cost_NM[n, m], "split": made.splits[n], "team": "x"}))
    (here / "log.jsonl").write_text("\n".join(lines))
    said = succeed("lm", "import", "log.jsonl", "--out", "records")
    assert "note: columns that are not read: team" in said
    said = succeed("lm", "eval", "records", "--router", "lm-knn", "--draws", 20)
    assert "effective sample of" in said
    assert "note: one model answered each prompt of the test: figures are doubly robust estimates from recorded" in said
    said = succeed("lm", "eval", "records", "--router", "lm-knn", "--draws", 20, "--without", "dog-person")
    assert "2 models" in said
    said = succeed("lm", "tune", "records", "--router", "lm-knn", "--budget", 5, "--out", "policy")
    assert "note: the setting rests on an effective sample of" in said
