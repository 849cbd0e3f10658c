"""`roster compare`: answers of every way on the same prompts, kept, written and shown side by side."""

import json

import pytest

from cli.conftest import refuse, succeed
from roster import pocket
from roster.api import load
from roster.arena.evaluate import answers
from roster.arena.side_by_side import chosen
from roster.pocket.skills import HELD_IN, examples
from roster.train import Row

SKILLS = HELD_IN[:3]


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """Three experts, two prompts for each, and one that only the base should answer."""
    folder = tmp_path_factory.mktemp("compare")
    (folder / "experts").mkdir()
    for name in SKILLS:
        (folder / "experts" / name).symlink_to(pocket.experts_path() / name)
    asked = [each for name in SKILLS for each in examples(name, "test", 2)]
    rows = [{"prompt": each.prompt, "answer": each.answer, "task": each.skill} for each in asked]
    rows.append({"prompt": "copy: abc =", "answer": None, "task": None, "group": "nobody"})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


ARGUMENTS = ("--recipe", "lora-tle:embed=hidden", "--recipe", "named", "--no-time")


def compared(ground, *more):
    asked = ("compare", "pocket", ground / "experts", "--data", ground / "rows.jsonl", "--out", ground / "out")
    return succeed(*asked, *ARGUMENTS, *more)


@pytest.fixture(scope="module")
def told(ground):
    return compared(ground, "--show", 2)


def test_answers_are_those_of_the_models_themselves(ground, told):
    lines = [json.loads(line) for line in (ground / "out" / "answers.jsonl").read_text().splitlines()]
    prompts = [line["prompt"] for line in lines]
    base, tokenizer = pocket.load_base()
    assert [line["said"]["base"] for line in lines] == answers(base, tokenizer, prompts)
    model = load("pocket", experts=ground / "experts", router="oracle")
    tasks = [line.get("task") for line in lines]
    assert [line["said"]["oracle"] for line in lines] == answers(model, tokenizer, prompts, tasks=tasks)
    for line in lines[:-1]:
        assert line["score"] == {name: float(said.strip() == line["answer"]) for name, said in line["said"].items()}
    nobody = lines[-1]
    assert nobody["score"]["base"] == nobody["score"]["oracle"] == 1.0, "the base's own answer is the measure"


def test_the_verdict_comes_first_and_answers_stand_side_by_side(ground, told):
    assert told.startswith("Routing ")
    assert "The bound, Oracle by task" in told
    for label in ("Base alone", "Best single adapter", "Uniform mixing", "Merged adapters", "lora-tle:embed=hidden"):
        assert told.count(label) >= 3, "in the table, and beside two prompts"
    result = json.loads((ground / "out" / "result.json").read_text())
    methods = {each["name"]: each for each in result["methods"]}
    assert methods["oracle"]["accuracy"]["all"]["mean"] == 1.0
    assert methods["oracle"]["agreement"] == 1.0
    assert methods["named"]["kind"] == "bound"
    assert methods["base"]["prompt_reads"] == methods["uniform"]["prompt_reads"] == 1.0
    assert methods["lora-tle:embed=hidden"]["prompt_reads"] == 2.0
    assert methods["lora-tle:embed=hidden"]["answer_reads"] == 2.0
    assert methods["lora-tle:embed=hidden"]["needs"] == "example prompts on the cards"


def test_what_was_answered_is_not_answered_again(ground, told, monkeypatch):
    def never(*_):
        raise AssertionError("answered again")

    monkeypatch.setattr("roster.arena.compare.Comparison.measure", never)
    again = json.loads(compared(ground, "--json"))
    assert again["verdict"][0] == told.splitlines()[0]
    with pytest.raises(AssertionError, match="answered again"):
        compared(ground, "--max-new-tokens", 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--recipe", "arrow-mcb"), "did you mean 'arrow-mbc'"),
        (("--recipe", "x-lora"), "has to be trained: `roster build` it"),
        (("--recipe", "arrow-mbc:topk=1"), "has no option 'topk'"),
        (("--recipe", "arrow-mbc", "--metric", "exakt"), "did you mean 'exact'"),
        (("--recipe", "arrow-mbc", "--metric", "nowhere:f"), "cannot be imported"),
    ],
)
def test_what_cannot_be_compared_is_said_before_anything_is_loaded(arguments, message, ground, tmp_path):
    asked = ("compare", "pocket", ground / "experts", "--data", ground / "rows.jsonl", "--out", tmp_path / "out")
    assert message in refuse(*asked, *arguments)
    assert not (tmp_path / "out").exists()


def test_rows_on_which_ways_differ_are_shown_first_task_by_task():
    rows = [Row(prompt=f"{n}", answer="a", task=task) for n, task in enumerate("ssst")]
    scores = {"one": [1.0, 1.0, 0.0, 1.0], "two": [1.0, 0.0, 1.0, 0.0]}
    assert chosen(rows, scores, 3) == [1, 3, 2]
