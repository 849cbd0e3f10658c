"""The table of what is asked: read from result files, and silent about nothing."""

import json

from evidence.auto_asked import NOT, asked


def rows(result, folder):
    return {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in asked(result, folder)[4:-1]
    }


def test_figures_that_nobody_has_measured_say_so(tmp_path):
    found = rows({"answers": {}, "scale": {}}, tmp_path)
    assert len(found) > 12
    assert {cells[1] for cells in found.values()} == {NOT, "docs/auto.md"}


def test_figures_are_ratios_of_what_was_measured(tmp_path):
    served = {
        "rows": {
            "roster serve, adapters": {"tokens_per_second": 9.0},
            "transformers serve": {"tokens_per_second": 10.0},
        }
    }
    (tmp_path / "serve.json").write_text(json.dumps(served))
    (tmp_path / "auto.json").write_text(json.dumps({"load": 1.0, "further token, auto / base": 1.12}))
    answers = {"auto": {"known": 0.9, "nobody": 0.97}, "oracle": {"known": 1.0}}
    groups = {name: {"right": 0.91} for name in ("known", "unseen")}
    scale = {"256": {"groups": groups, "fit_s": 1.4, "lost": {"known": 1.9}}}
    found = rows({"answers": answers, "scale": scale}, tmp_path)
    assert found["known wordings: share of the oracle's accuracy"][:2] == [">= 98 %", "90.0 %"]
    assert found["unseen wordings: the same"][1] == NOT
    assert found["nobody's prompts answered as the base answers"][1] == "97.0 %"
    assert found["256 adapters, duplicates and noise among them: choice right"][1] == "known 91.0 %, unseen 91.0 %"
    assert (
        found["duplicated or noisy adapters in the folder: right answers lost"][1] == "known: 256 adapters, +1.9 points"
    )
    assert (
        found["`roster serve`, 16 requests over 8 adapters: throughput against transformers serve, base"][1] == "0.90"
    )
    assert found["further token, against the base"][1:] == ["1.12", "benchmarks/auto.py, load 1.0"]
