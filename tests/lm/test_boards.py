"""Files of public benchmarks as they are, and their scores as their papers and code compute them, by hand."""

import csv
import dataclasses
import json
import math
import pickle

import numpy as np
import pytest

from cli.conftest import refuse, succeed
from lm import tiny
from roster.errors import RosterError
from roster.lm.boards import (
    aiq,
    arena_score,
    arena_score_of,
    read_routerarena,
    read_routerbench,
    routerarena_scores,
    routerbench_scores,
)
from roster.lm.curve import curve
from roster.recipes import RECIPES

ROWS = [
    {
        "sample_id": f"mmlu-{n}",
        "prompt": f"['Question {n}?', 'Answer shortly.']",
        "eval_name": ("mmlu-law", "gsm8k")[n % 2],
        "small": n % 2,
        "large": 0.5 if n == 3 else 1.0,
        "small|model_response": f"s{n}",
        "large|model_response": f"l{n}",
        "small|total_cost": 0.001 * (n + 1),
        "large|total_cost": 0.02,
        "oracle_model_to_route_to": "small",
    }
    for n in range(10)
]


@pytest.fixture(params=["jsonl", "csv", "parquet"])
def routerbench(request, tmp_path):
    path = tmp_path / f"wide.{request.param}"
    if request.param == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in ROWS))
    elif request.param == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(ROWS[0]))
            writer.writeheader()
            writer.writerows(ROWS)
    else:
        pyarrow = pytest.importorskip("pyarrow", reason="Parquet is an extra")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    return path


def test_routerbenchs_table_becomes_records(routerbench):
    records = read_routerbench(routerbench)
    assert records.models == ("large", "small")
    at = records.prompts.index("Question 3?\nAnswer shortly.")
    assert records.score_NM[at].tolist() == [0.5, 1]
    assert records.cost_NM[at] == pytest.approx([0.02, 0.004])
    assert records.answer_NM[at].tolist() == ["l3", "s3"]
    assert records.datasets[at] == "gsm8k"
    assert {"train", "validation", "test"} == set(records.splits)


def test_a_pickle_is_never_loaded(tmp_path):
    path = tmp_path / "routerbench_0shot.pkl"
    path.write_bytes(pickle.dumps(ROWS))
    with pytest.raises(
        RosterError, match=r"runs whatever is in it.*read_pickle\('.*routerbench_0shot\.pkl'\)\.to_json"
    ):
        read_routerbench(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"eval_name": None}, None),
        ({"small": "good"}, "row 1: 'small' is 'good'"),
        ({"small": 7}, "between 0 and 1"),
    ],
)
def test_other_tables_are_refused(tmp_path, change, words):
    path = tmp_path / "wide.jsonl"
    path.write_text("\n".join(json.dumps({**row, **change}) for row in ROWS))
    if words is None:
        path.write_text("\n".join(json.dumps({k: v for k, v in row.items() if k != "eval_name"}) for row in ROWS))
        words = "has a column 'eval_name'"
    with pytest.raises(RosterError, match=words):
        read_routerbench(path)


def test_aiq_is_the_area_that_routerbenchs_code_computes():
    # Cheap and rising to (3, 0.8); a point below the line and one that pays more for less.
    one = curve(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.4, 0.45, 0.8, 0.7]))
    two = curve(np.array([2.0, 5.0]), np.array([0.5, 0.6]))
    # By hand: trapezoids from the first point to the last rise, level up to the dearest point of both (5), over 5.
    first = (3 - 1) * (0.4 + 0.8) / 2 + (5 - 3) * 0.8
    second = (5 - 2) * (0.5 + 0.6) / 2
    assert aiq({"one": one, "two": two}) == pytest.approx({"one": first / 5, "two": second / 5})
    assert np.trapezoid([0.4, 0.8, 0.8], [1, 3, 5]) / 5 == pytest.approx(first / 5)


def test_the_arena_score_is_the_sources_formula():
    # RouterArena's equation, with its constants, written out.
    frugality = (math.log2(200) - math.log2(0.5)) / (math.log2(200) - math.log2(0.0044))
    assert arena_score(0.7, 0.5) == pytest.approx(1.1 * 0.7 * frugality / (0.1 * 0.7 + frugality))
    assert arena_score(0.7, 0.001) == arena_score(0.7, 0.0044) == pytest.approx(1.1 * 0.7 / (0.07 + 1))
    assert arena_score(0.7, 1000) == arena_score(0, 200) == 0
    assert arena_score_of(np.array([1.0, 0.0, 1.0, 1.0]), np.array([1e-3, 2e-3, 3e-3, 2e-3])) == arena_score(0.75, 2.0)
    for accuracy, cost in ((1.1, 1), (0.5, 0), (0.5, float("nan"))):
        with pytest.raises(RosterError, match="RouterArena"):
            arena_score(accuracy, cost)


def arena_files(folder):
    questions, first, second, predicted = [], [], [], []
    for n in range(10):
        index = f"GSM8K_{n}" if n % 2 else f"MMLUPro_law_{n}"
        questions.append({"global index": index, "prompt_formatted": f"Question {n}?"})
        result = {"score": float(n % 2), "metric": "mcq", "inference_cost": 0.001}
        first.append({"global_index": index, "generated_answer": "a", "success": True, "evaluation_result": result})
        second.append({"global_index": index, "evaluation_result": {**result, "score": 1.0, "inference_cost": 0.0}})
        predicted.append({"global index": index, "prompt": "p", "prediction": "third", "accuracy": 0.5, "cost": 0.01})
    (folder / "cached").mkdir()
    for name, rows in (("small", first), ("large", second)):
        (folder / "cached" / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "router_data.json").write_text(json.dumps(questions))
    (folder / "my-router.json").write_text(json.dumps(predicted))


def test_routerarenas_files_become_records(tmp_path):
    arena_files(tmp_path)
    records = read_routerarena([tmp_path / "router_data.json", tmp_path / "cached", tmp_path / "my-router.json"])
    assert records.models == ("large", "small", "third")
    at = records.prompts.index("Question 3?")
    assert records.datasets[at] == "GSM8K"
    assert records.datasets[records.prompts.index("Question 4?")] == "MMLUPro_law"
    assert records.score_NM[at].tolist() == [1, 1, 0.5]
    np.testing.assert_array_equal(records.cost_NM[at], [np.nan, 0.001, 0.01])  # upstream writes 0 for not known
    alone = read_routerarena([tmp_path / "my-router.json"])
    assert arena_score_of(alone.score_NM[:, 0], alone.cost_NM[:, 0]) == pytest.approx(arena_score(0.5, 10))


def test_what_is_missing_is_said(tmp_path):
    arena_files(tmp_path)
    with pytest.raises(RosterError, match=r"text of 10 questions is missing.*router_data\.json"):
        read_routerarena([tmp_path / "cached"])
    with pytest.raises(RosterError, match="no scored results"):
        read_routerarena([tmp_path / "router_data.json"])
    with pytest.raises(RosterError, match="no such file"):
        read_routerarena([tmp_path / "nowhere"])
    (tmp_path / "x.json").write_text("[{}]")
    with pytest.raises(RosterError, match="entry 1: there is no 'global_index'"):
        read_routerarena([tmp_path / "x.json"])


def test_routers_are_scored_as_the_boards_do():
    records = tiny.records(600)
    makers = {slug: RECIPES[slug] for slug in ("lm-knn", "lm-best-single")}
    areas = routerbench_scores(records, makers)
    assert 1 > areas["lm-knn"] > areas["lm-best-single"] > 0
    cheap = dataclasses.replace(records, cost_NM=records.cost_NM / 1e4)  # within the board's range of costs
    found = routerarena_scores(cheap, makers)
    for arena in found.values():
        assert arena.score == pytest.approx(arena_score(arena.accuracy, arena.cost_per_1000))
    assert found["lm-knn"].score > found["lm-best-single"].score


def test_a_board_on_the_command_line(tmp_path):
    arena_files(tmp_path)
    shown = succeed(
        "lm",
        "board",
        "import",
        "routerarena",
        tmp_path / "my-router.json",
        tmp_path / "cached",
        "--out",
        tmp_path / "out",
    )
    assert "3 models: large, small, third" in shown
    assert "read_pickle" in refuse("lm", "board", "import", "routerbench", tmp_path / "x.pkl", "--out", tmp_path / "no")
    assert "one file, not 2" in refuse("lm", "board", "import", "routerbench", "a", "b", "--out", tmp_path / "no")
