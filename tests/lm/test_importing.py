"""A user's log: what is read, what is refused with which line, and that records survive the disk."""

import dataclasses
import json

import numpy as np
import pytest

from lm import tiny
from roster.errors import RosterError
from roster.lm.exporting import log_lines
from roster.lm.importing import read_log
from roster.lm.prices import Price, read_prices
from roster.lm.splits import deduplicate
from roster.lm.storing import find_records, load_records, save_records
from texts import needed


def write(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_a_log_becomes_records(tmp_path):
    made = read_log(
        write(
            tmp_path / "log.jsonl",
            {"prompt": "a", "model": "small", "score": 1, "cost": 0.5, "latency": 2, "split": "test", "dataset": "x"},
            {"prompt": "a", "model": "large", "score": 0.5},
            "",
            {"prompt": "b", "model": "small", "score": 0, "split": "train", "answer": "no", "logprob": -0.5},
            {"prompt": "b", "model": "small", "score": 1, "split": "train"},
        )
    )
    assert made.models == ("large", "small")
    assert made.prompts == ("a", "b")
    np.testing.assert_array_equal(made.score_NM, [[0.5, 1.0], [np.nan, 0.5]])
    assert made.missing == {"score": 1, "cost": 3, "delay": 3}
    assert (made.splits, made.datasets) == (("test", "train"), ("x", ""))
    assert made.answer_NM[1, 1] == "no"
    assert made.logprob_NM[1, 1] == -0.5
    assert any("averaged" in note for note in made.notes)


def test_splits_follow_the_text(tmp_path):
    rows = [{"prompt": f"question {n}", "model": "m", "score": 1} for n in range(200)]
    made = read_log(write(tmp_path / "log.jsonl", *rows))
    again = read_log(write(tmp_path / "other.jsonl", *rows[::-1]))
    assert dict(zip(made.prompts, made.splits, strict=True)) == dict(zip(again.prompts, again.splits, strict=True))
    assert 90 < made.splits.count("train") < 150


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: a line must be a JSON object"),
        ({"model": "m"}, "line 2: 'prompt' is missing"),
        ({"prompt": "p", "model": "m", "scor": 1}, "line 2: unknown key 'scor': did you mean 'score'"),
        ({"prompt": "p", "model": "m", "score": 7}, "line 2: score 7 is not between 0 and 1; rescale"),
        ({"prompt": "p", "model": "m", "cost": -1}, "line 2: 'cost'"),
        ('{"prompt": "p", "model": "m", "cost": NaN}', "line 2: 'cost'"),
        ({"prompt": "", "model": "m"}, "line 2: 'prompt'"),
        ({"prompt": "p", "model": "m", "split": "dev"}, "line 2: 'split'"),
        ('{"prompt": ' + "[" * 100_000, "line 2"),
    ],
)
def test_what_is_refused(tmp_path, line, message):
    with pytest.raises(RosterError, match=message):
        read_log(write(tmp_path / "log.jsonl", {"prompt": "fine", "model": "m", "score": 1}, line))


def test_other_refusals(tmp_path):
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "\xe9", "model": "m"}\n')
    with pytest.raises(RosterError, match="line 1: not UTF-8"):
        read_log(tmp_path / "latin.jsonl")
    with pytest.raises(RosterError, match="no calls"):
        read_log(write(tmp_path / "empty.jsonl"))
    with pytest.raises(RosterError, match="and 5 more lines"):
        read_log(write(tmp_path / "many.jsonl", *["{"] * 15))


def test_the_disk_changes_nothing(tmp_path):
    made = tiny.with_answers()
    again = load_records(save_records(made, tmp_path / "records"))
    assert (again.prompts, again.models, again.splits, again.datasets) == (
        made.prompts,
        made.models,
        made.splits,
        made.datasets,
    )
    for name in ("score_NM", "cost_NM", "delay_NM", "answer_NM"):
        np.testing.assert_array_equal(getattr(again, name), getattr(made, name))
    assert again.logprob_NM is None
    (tmp_path / "records" / "matrices.npz").write_bytes(b"no")
    with pytest.raises(RosterError, match="damaged"):
        load_records(tmp_path / "records")


def test_a_log_of_records_reads_back(tmp_path):
    made = tiny.records(60)
    again = read_log(write(tmp_path / "log.jsonl", *log_lines(made)))
    order = [again.models.index(model) for model in made.models]
    assert again.prompts == made.prompts
    np.testing.assert_allclose(again.score_NM[:, order], made.score_NM)
    np.testing.assert_allclose(again.cost_NM[:, order], made.cost_NM)
    assert again.splits == made.splits


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = {"prompt": ["a", "b"], "model": ["m", "m"], "score": [1.0, None], "cost": [0.1, 0.2]}
    parquet.write_table(pyarrow.table(rows), tmp_path / "log.parquet")
    made = read_log(tmp_path / "log.parquet")
    assert made.missing["score"] == 1
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(RosterError, match="not a readable Parquet"):
        read_log(tmp_path / "bad.parquet")


def test_finding_records(tmp_path):
    needed("routellm-mt-bench")
    assert find_records("routellm-mt-bench").name == "routellm-mt-bench"
    with pytest.raises(RosterError, match="roster lm import"):
        find_records(str(tmp_path))
    with pytest.raises(RosterError, match="did you mean 'zeroeval'"):
        find_records("zeroevals")


@pytest.mark.parametrize("order", [1, -1])
def test_the_test_side_keeps_the_prompt_whatever_the_order_of_the_lines(tmp_path, order):
    rows = [
        {"prompt": "Why?", "model": "a", "score": 1, "split": "test"},
        {"prompt": "Why?", "model": "a", "score": 0, "split": "train"},
        {"prompt": "why? ", "model": "b", "score": 0.5, "split": "train"},
        {"prompt": "WHY?", "model": "c", "score": 0.25},
        {"prompt": "other", "model": "a", "score": 0, "split": "train"},
    ]
    made = read_log(write(tmp_path / "log.jsonl", *rows[::order]))
    found = {prompt.casefold().strip(): n for n, prompt in enumerate(made.prompts)}
    assert {made.splits[found["why?"]], made.splits[found["other"]]} == {"test", "train"}
    assert made.splits[found["why?"]] == "test"
    # The test's own cell counts; what only the training side measured fills a gap.
    np.testing.assert_array_equal(made.score_NM[found["why?"]], [1.0, 0.5, 0.25])
    assert any(note.startswith("1 prompts were removed") for note in made.notes)


def test_rows_that_differ_in_spacing_or_case_merge_their_cells(tmp_path):
    rows = [
        {"prompt": "Tell me  more", "model": "a", "score": 1, "cost": 1.0},
        {"prompt": "tell me more", "model": "b", "score": 0, "cost": 2.0},
        {"prompt": "TELL ME MORE", "model": "a", "score": 0, "cost": 1.0, "dataset": "chat"},
        {"prompt": " tell me more", "model": "a", "score": 0},
    ]
    made = read_log(write(tmp_path / "log.jsonl", *rows))
    assert made.prompts == ("Tell me  more",)
    np.testing.assert_allclose(made.score_NM, [[1 / 3, 0.0]])  # every call counts once
    np.testing.assert_allclose(made.cost_NM, [[1.0, 2.0]])
    assert made.datasets == ("chat",)


def test_records_made_in_python_merge_alike():
    made = tiny.records(10)
    prompts = (made.prompts[0].upper(), *made.prompts[1:9], made.prompts[0] + " ")
    score_NM = made.score_NM.copy()
    score_NM[0, 0], score_NM[9, 0], score_NM[0, 1], score_NM[9, 1] = 1.0, 0.0, np.nan, 1.0
    splits = ("test", *made.splits[1:9], "test")
    left = deduplicate(dataclasses.replace(made, prompts=prompts, score_NM=score_NM, splits=splits))
    assert len(left) == 9
    assert left.score_NM[0, :2].tolist() == [0.5, 1.0]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_byte_order_mark_is_read_over(tmp_path, mark):
    line = json.dumps({"prompt": "a", "model": "m", "score": 1}).encode() + b"\r\n"
    (tmp_path / "log.jsonl").write_bytes(mark + line + mark + b"\r\n" + line.replace(b'"a"', b'"b"'))
    assert read_log(tmp_path / "log.jsonl").prompts == ("a", "b")


def test_columns_that_are_not_read_are_named(tmp_path):
    row = {"prompt": "a", "model": "m", "score": 1, "user_id": 7, "prompt_id": "x", "cost_usd": None}
    made = read_log(write(tmp_path / "log.jsonl", row))
    assert made.notes[0] == "columns that are not read: cost_usd, prompt_id, user_id"
    many = {f"column {n}": n for n in range(30)}
    assert read_log(write(tmp_path / "log.jsonl", row | many)).notes[0].endswith(", ...")


CALLS = [
    {"prompt": "What?", "model": "small", "score": 1, "prompt_tokens": 10, "completion_tokens": 100, "cost": None},
    {"prompt": "What?", "model": "large", "score": 1, "answer": "x" * 400},
    {"prompt": "Who is it", "model": "small", "score": 0, "cost": 0.5},
    {"prompt": "Who is it", "model": "large", "score": 0, "cost": 0},
]


def test_costs_follow_from_prices_and_tokens_where_they_were_not_logged(tmp_path):
    prices = {"small": Price(1.0, 10.0), "large": Price(0.0, 20.0)}
    made = read_log(write(tmp_path / "log.jsonl", *CALLS), prices=prices)
    cost = dict(zip(made.models, made.cost_NM.T.tolist(), strict=True))
    assert cost["small"] == pytest.approx([(10 * 1.0 + 100 * 10.0) / 1e6, 0.5])  # what was logged stays
    assert cost["large"] == pytest.approx([100 * 20.0 / 1e6, 0.0])  # 400 characters; a logged cost of 0 is one
    assert "the cost of 2 calls was not logged and follows from their tokens and the prices" in made.notes
    written = dict(zip(made.models, made.logged.written_NM.T.tolist(), strict=True))
    assert written["small"] == pytest.approx([100, (0.5e6 - 9 / 4) / 10])  # from the cost, where nothing else says
    assert written["large"] == pytest.approx([100, 0])
    for wrong in ({"small": Price(1.0, 1.0)}, prices | {"medium": Price(1.0, 1.0)}):
        with pytest.raises(RosterError, match="price"):
            read_log(tmp_path / "log.jsonl", prices=wrong)


def test_prices_are_read_from_a_file(tmp_path):
    (tmp_path / "prices.yaml").write_text("small: {input: 0.15, output: 0}\nlarge: {input: 3, output: 15}\n")
    assert read_prices(tmp_path / "prices.yaml") == {"small": Price(0.15, 0.0), "large": Price(3.0, 15.0)}
    for text, message in (
        ("small: 3", "small: an `input` and an `output`"),
        ("small: {input: x, output: 1}", "small: could not"),
        ("small: {input: -1, output: 1}", "small: a price must be"),
        ("[", "cannot be read"),
        ("", "a line per model"),
    ):
        (tmp_path / "prices.yaml").write_text(text)
        with pytest.raises(RosterError, match=message):
            read_prices(tmp_path / "prices.yaml")
    with pytest.raises(RosterError, match="cannot be read"):
        read_prices(tmp_path / "nowhere.yaml")


def test_models_are_left_out(tmp_path):
    path = write(tmp_path / "log.jsonl", *CALLS, {"prompt": "only large", "model": "large", "score": 1})
    made = read_log(path, without=("large",))
    assert (made.models, len(made)) == (("small",), 2)
    with pytest.raises(RosterError, match="no model 'larg' to leave out: did you mean 'large'"):
        read_log(path, without=("larg",))
    with pytest.raises(RosterError, match="all 2 are left out"):
        read_log(path, without=("large", "small"))
    assert read_log(path).without(["large"]).models == ("small",)
    with pytest.raises(RosterError, match="no model left"):
        read_log(path).without(["small", "large"])


def test_what_a_log_knows_beside_figures_survives_the_disk_and_merging(tmp_path):
    rows = [
        {"prompt": "a", "model": "m", "score": 1, "propensity": 0.5, "completion_tokens": 10, "split": "test"},
        {"prompt": "A", "model": "m", "score": 0, "propensity": 0.25, "completion_tokens": 30, "split": "test"},
        {"prompt": "a", "model": "k", "score": 0, "propensity": 0.5, "split": "train"},
        {"prompt": "b", "model": "k", "score": 0, "split": "train"},
    ]
    made = read_log(write(tmp_path / "log.jsonl", *rows), text="conversation")
    again = load_records(save_records(made, tmp_path / "records"))
    assert again.text == made.text == "conversation"
    for logged in (made.logged, again.logged):
        np.testing.assert_array_equal(logged.calls_NM, [[1, 2], [1, np.nan]])
        np.testing.assert_allclose(logged.propensity_NM, [[0.5, 1 / 3], [np.nan, np.nan]])  # weights are averaged
        np.testing.assert_array_equal(logged.written_NM, [[np.nan, 20], [np.nan, np.nan]])
    one = again.only(["m"]).rows(np.array([1, 0]))
    np.testing.assert_array_equal(one.logged.calls_NM, [[np.nan], [2]])
