"""`roster arena mix`: recipes on a folder and rows, seeds, records that are taken up again, one result, one page."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from arena.test_report import Page
from cli.conftest import refuse, run, succeed
from roster import pocket
from roster.api import load
from roster.arena import grounds
from roster.arena.compare import Comparison
from roster.arena.evaluate import answers
from roster.arena.mix_page import _front, render_page
from roster.arena.standings import Entry, standings, to_its_own
from roster.arena.tournament import matrix_rows
from roster.library import Library
from roster.library.gates import GATES
from roster.pocket.skills import HELD_IN, examples
from roster.train import Row

SKILLS = HELD_IN[:3]
RECIPES = ("auto", "scalearn", "phatgoose")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three experts without gates, two prompts for each, one for the base, and something to learn from."""
    found = tmp_path_factory.mktemp("mix")
    for name in SKILLS:
        (found / "experts" / name).mkdir(parents=True)
        for file in (pocket.experts_path() / name).iterdir():
            if file.name != GATES:
                (found / "experts" / name / file.name).write_bytes(file.read_bytes())

    def lines(split, count):
        asked = [each for name in SKILLS for each in examples(name, split, count)]
        return [{"prompt": each.prompt, "answer": each.answer, "task": each.skill, "group": "own"} for each in asked]

    rows = [*lines("test", 2), {"prompt": "copy: abc =", "answer": None, "task": None, "group": "nobody"}]
    (found / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (found / "lessons.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines("train", 4)))
    return found


def play(folder, *more, recipes=RECIPES):
    where = ("--ground", folder / "experts", "--data", folder / "rows.jsonl", "--lessons", folder / "lessons.jsonl")
    rest = ("--base", "pocket", "--out", folder / "out", "--steps", 2, "--no-time", "--seeds", 2)
    return succeed("arena", "mix", *recipes, *where, *rest, *more)


@pytest.fixture(scope="module")
def told(folder):
    return play(folder)


@pytest.fixture(scope="module")
def result(folder, told):
    return json.loads((folder / "out" / "result.json").read_text())


def record(folder, name, place="all-0"):
    return json.loads((folder / "out" / "kept" / place / f"{name}.json").read_text())


def test_answers_are_those_of_the_model_itself(folder, result):
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    _, tokenizer = pocket.load_base()
    model = load("pocket", experts=folder / "experts", router="auto")
    said = answers(model, tokenizer, [row["prompt"] for row in rows])
    kept = record(folder, "auto")
    assert kept["told"] == said
    right = [float(text.strip() == row["answer"]) for text, row in zip(said, rows, strict=True) if row["answer"]]
    methods = {each["name"]: each for each in result["methods"]}
    assert methods["auto"]["accuracy"]["own"]["mean"] == pytest.approx(np.mean(right))
    assert methods["base"]["accuracy"]["nobody"]["mean"] == 1.0, "the base is the measure of nobody's prompts"


def test_whatever_can_be_said_of_a_way_is_there(folder, result):
    methods = {each["name"]: each for each in result["methods"]}
    data = {"auto": "prompts only", "scalearn": "pooled data", "phatgoose": "own data", "uniform": "none"}
    assert {name: methods[name]["data"] for name in data} == data
    assert methods["oracle"]["to_its_own"] == methods["oracle"]["answers_as_oracle"] == 1.0
    assert methods["auto"]["to_its_own"] == 1.0
    assert methods["scalearn"]["trained"] > 0 == methods["auto"]["trained"]
    one = Library.read(folder / "experts")
    numbers = sum(
        each.A_RD.numel() + each.B_OR.numel() for adapter in one.values() for each in adapter.modules.values()
    )
    assert 4 * numbers <= methods["uniform"]["memory"] <= 4 * numbers * 1.02, "float32, beside the base"
    assert methods["base"]["memory"] == methods["merged"]["memory"] == 0
    assert methods["uniform"]["prepare_s"] < methods["scalearn"]["prepare_s"]
    table = result["confusion"]["auto"]
    assert table["rows"] == list(SKILLS)
    assert np.array_equal(np.array(table["values"]), np.eye(3, 4)), "every prompt to its own, none to nobody"
    alone = result["matrix"]
    assert alone["rows"] == alone["columns"] == sorted(SKILLS)
    assert np.diag(alone["values"]).tolist() == [1.0, 1.0, 1.0]


def test_nothing_is_written_beside_the_users_adapters(folder, result):
    assert "phatgoose" not in result["failed"]
    assert not list((folder / "experts").glob(f"*/{GATES}"))
    assert record(folder, "phatgoose")["cost"]["trained"] > 0


def test_a_seed_is_a_training_of_its_own(folder, result):
    assert record(folder, "scalearn", "all-0")["question"] != record(folder, "scalearn", "all-1")["question"]
    untrained = record(folder, "auto", "all-0"), record(folder, "auto", "all-1")
    assert untrained[0]["told"] == untrained[1]["told"]
    methods = {each["name"]: each for each in result["methods"]}
    assert methods["auto"]["spread_over_seeds"] == 0.0
    assert methods["auto"]["accuracy"]["all"]["n"] == 7, "a prompt that was asked twice counts once"


def test_pairs_hold_scipys_intervals(folder, result):
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    base = record(folder, "base")["told"]

    def scores(name):
        wanted = [text if row["answer"] is None else row["answer"] for row, text in zip(rows, base, strict=True)]
        return np.array(
            [float(a.strip() == b.strip()) for a, b in zip(record(folder, name)["told"], wanted, strict=True)]
        )

    pair = next(p for p in result["pairs"] if (p["of"], p["over"], p["group"]) == ("base", "auto", "all"))
    expected = stats.ttest_rel(scores("base"), scores("auto")).confidence_interval()
    assert (pair["low"], pair["high"]) == pytest.approx((max(expected.low, -1.0), min(expected.high, 1.0)))
    assert pair["word"] == ("worse" if expected.high < 0 else "undecided")


def test_folders_of_other_sizes(folder, tmp_path):
    given = ("arena", "mix", "arrow-mbc", "--ground", folder / "experts", "--data", folder / "rows.jsonl")
    succeed(*given, "--base", "pocket", "--out", tmp_path, "--no-time", "--size", 5)
    result = json.loads((tmp_path / "result.json").read_text())
    large = result["sizes"]["5"]
    assert (result["experts"], large["experts"]) == (3, 5)
    by_name = {each["name"]: each for each in large["methods"]}
    assert by_name["oracle"]["to_its_own"] == 1.0, "a copy of the right expert is right"
    assert f"{sorted(SKILLS)[0]}-1" in {path.name for path in (tmp_path / "libraries" / "5").iterdir()}
    assert render_page(result).count("Larger and smaller folders") == 1


def test_what_was_answered_is_not_answered_again(folder, told, monkeypatch):
    def never(*_):
        raise AssertionError("answered again")

    monkeypatch.setattr(Comparison, "measure", never)
    assert play(folder).splitlines()[:2] == told.splitlines()[:2]


def test_a_killed_run_goes_on_where_it_was(folder, tmp_path, monkeypatch):
    measure, done = Comparison.measure, []

    def counted(self, way):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(way.name)
        return measure(self, way)

    given = ("arena", "mix", "auto", "--ground", folder / "experts", "--data", folder / "rows.jsonl")
    given = (*given, "--base", "pocket", "--out", tmp_path, "--no-time")
    monkeypatch.setattr(Comparison, "measure", counted)
    stopped = run(*given)
    assert stopped.exit_code == 130
    assert "go on" in stopped.stderr
    monkeypatch.setattr(Comparison, "measure", lambda self, way: (done.append(way.name), measure(self, way))[1])
    succeed(*given)
    assert len(done) == len(set(done)), "nothing was measured twice"


def test_one_recipes_fault_does_not_stop_the_others(folder, tmp_path, monkeypatch):
    measure = Comparison.measure

    def breaks(self, way):
        if way.name == "auto":
            raise ZeroDivisionError("by design")
        return measure(self, way)

    monkeypatch.setattr(Comparison, "measure", breaks)
    given = ("arena", "mix", "auto", "arrow-mbc", "--ground", folder / "experts", "--data", folder / "rows.jsonl")
    said = succeed(*given, "--base", "pocket", "--out", tmp_path, "--no-time")
    assert "auto could not take part: ZeroDivisionError: by design" in said
    assert "arrow-mbc" in {each["name"] for each in json.loads((tmp_path / "result.json").read_text())["methods"]}


def test_processes_share_the_runs_out(folder, told, tmp_path):
    given = ("arena", "mix", "auto", "--ground", folder / "experts", "--data", folder / "rows.jsonl")
    succeed(*given, "--base", "pocket", "--out", tmp_path, "--no-time", "--jobs", 2)
    shared = json.loads((tmp_path / "kept" / "all-0" / "auto.json").read_text())
    assert shared["told"] == record(folder, "auto")["told"]


def test_the_page_shows_all_of_it_and_fetches_nothing(result):
    html = render_page(result)
    page = Page(html)
    text = "".join(page.words)
    for each in result["methods"]:
        assert text.count(each["label"]) >= 3, "in the key, the table and the pairs"
    assert "None" not in text
    assert "nan" not in text.replace("named", "")
    assert not re.search(r"https?:|//[a-z]|url\(|@import", html.replace("// Without", ""))
    circles = page.all("circle")
    assert len(circles) == 3 * len(result["methods"]), "three pictures without time"
    assert all(0 < float(each["cx"]) < 460 and 0 < float(each["cy"]) < 320 for each in circles)
    ids = [each["id"] for _, each in page.elements if "id" in each]
    assert len(ids) == len(set(ids))


def test_rows_of_tasks_that_a_smaller_folder_lacks_are_left_out(folder, tmp_path):
    ground = grounds.own_ground(folder / "experts", folder / "rows.jsonl", [0], folder / "lessons.jsonl", "pocket")
    small = ground.of_size(2, tmp_path / "two")
    kept = sorted(SKILLS)[:2]
    assert [path.name for path in sorted((tmp_path / "two").iterdir())] == kept
    assert {row.task for row in small.rows[0]} == {*kept, None}
    assert {row.task for row in small.lessons} == set(kept)


def test_only_what_nothing_cheaper_beats_is_framed():
    def method(name, share, kind="recipe"):
        return {"name": name, "kind": kind, "accuracy": {"all": {"mean": share}}}

    methods = [method("a", 0.5), method("b", 0.4), method("c", 0.9), method("d", 0.9), method("told", 1.0, "bound")]
    assert _front(methods, [1, 2, 3, 4, 0]) == {"a", "c"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("arrow-mcb",), "did you mean 'arrow-mbc'"),
        (("auto:layers=3",), "has no option 'layers'"),
        (("switch-transformer",), "does not route among adapters"),
        (("auto", "--ground", "nowhere"), "a folder of adapters goes with --data"),
        (("auto", "--ground", "reasoning"), "give --experts FOLDER"),
        (("auto", "--lessons", "x.jsonl"), "go with a folder of adapters"),
        (("auto", "--metric", "exakt"), "did you mean 'exact'"),
    ],
)
def test_what_cannot_be_compared_is_said_before_anything_is_loaded(arguments, message, tmp_path):
    assert message in refuse("arena", "mix", *arguments, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_recipe_that_must_be_trained_needs_lessons(folder, tmp_path):
    given = ("--ground", folder / "experts", "--data", folder / "rows.jsonl", "--base", "pocket")
    assert "has to be trained" in refuse("arena", "mix", "x-lora", *given, "--out", tmp_path / "out")


def test_scores_of_a_prompt_that_is_asked_twice_are_averaged():
    rows = {0: [Row(prompt="p", answer="a"), Row(prompt="q", answer="a")], 1: [Row(prompt="p", answer="a")]}
    way = SimpleNamespace(name="w", label="w", kind="baseline", needs="", data="none")
    cost = SimpleNamespace(trained=0, memory=0, time=None, prompt_reads=1, answer_reads=1, prepare_s=1.0)
    outcomes = {
        0: SimpleNamespace(way=way, scores=[1.0, 0.0], told=["a", "b"], chosen=["x", None], cost=cost),
        1: SimpleNamespace(way=way, scores=[0.0], told=["b"], chosen=["x"], cost=cost),
    }
    entry = Entry(rows, outcomes)
    assert entry.scores(None, list(entry.score)) == [0.5, 0.0]
    assert standings([entry], ["all"])["methods"][0]["accuracy"]["all"]["n"] == 2
    rows = {0: [row.model_copy(update={"task": "t"}) for row in rows[0]], 1: [rows[1][0]]}
    assert to_its_own(entry, rows, {"x": "t"}) == pytest.approx(1 / 3), "nobody is not one's own, nor is another's"


def test_pocket_is_drawn_anew_for_every_seed():
    ground = grounds.pocket_ground([0, 1], 0.2)
    assert {row.group for row in ground.rows[0]} == {"held-in", "unseen", "composed"}
    assert [row.prompt for row in ground.rows[0]] != [row.prompt for row in ground.rows[1]]
    asked = {row.prompt for rows in ground.rows.values() for row in rows if row.group == "held-in"}
    assert not asked & {row.prompt for row in ground.lessons}
    assert [row.task for row in matrix_rows(ground, 0)] == list(HELD_IN)
