"""`roster lm`: what it prints and what it refuses; that the examples run is tested with all the others."""

import json

from cli.conftest import refuse, succeed
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
