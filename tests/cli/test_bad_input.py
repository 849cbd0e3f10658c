"""Bad input: exit code 2, one line that says what is wrong, and nothing left behind."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from cli.conftest import refuse, run
from roster import pocket
from roster.library.config import CONFIG
from roster.library.reading import WEIGHTS
from roster.shelf.card import CARD

GOOD = json.dumps({"prompt": "reverse: abc =", "answer": "cba", "task": "reverse"})
CONTEXT = 256


@pytest.fixture(autouse=True)
def _nothing_left_behind(here):
    (here / "kept").mkdir()
    yield
    left = sorted(path.name for path in here.iterdir() if path.suffix != ".jsonl")
    assert left == ["kept"]


def build(experts, *more, router="arrow-mbc", base="pocket"):
    return refuse("build", base, experts, "--router", router, "--out", "out", *more)


def edit(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def data(here, *lines):
    (here / "data.jsonl").write_text("\n".join(lines) + "\n")
    return "--data", "data.jsonl"


def other_base(experts):
    edit(experts / "sort" / CONFIG, base_model_name_or_path="some/other")
    edit(experts / "sort" / CARD, base_hash=None)


def other_hash(experts):
    edit(experts / "sort" / CARD, base_hash="a" * 64)
    edit(experts / "reverse" / CARD, base_hash="b" * 64)


def truncate(experts):
    path = experts / "sort" / WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])


def poison(experts):
    path = experts / "sort" / WEIGHTS
    tensors = load_file(path)
    next(iter(tensors.values()))[0, 0] = torch.nan
    save_file(tensors, path)


def widen(experts):
    path = experts / "sort" / WEIGHTS
    save_file({name: torch.cat([t, t], 1) if "lora_A" in name else t for name, t in load_file(path).items()}, path)
    (experts / "sort" / CARD).unlink()


def empty(experts):
    for path in list(experts.iterdir()):
        shutil.rmtree(path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "there is no folder"),
        (empty, "holds no adapters"),
        (other_base, "adapters of different bases: 'reverse' belongs to 'roster/pocket-base', 'sort' to 'some/other'"),
        (other_hash, "adapters of different bases"),
        (truncate, f"sort/{WEIGHTS}' is damaged"),
        (poison, "not finite"),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_bad_experts(spoil, message, experts):
    spoil(experts)
    assert message in build(experts)
    listed = run("experts", "list", experts)  # by headers: what only the values tell is not seen
    assert listed.exit_code == (0 if spoil is poison else 2)
    assert spoil is poison or (message if spoil is not truncate else "it is truncated") in listed.stderr
    checked = run("experts", "check", experts)
    assert checked.exit_code == 2
    assert message in checked.output


def test_experts_that_do_not_fit_the_base(experts):
    widen(experts)
    message = build(experts)
    assert "but this model needs [8, " in message
    assert "27 more of its 28 modules do not fit" in message


def test_one_adapter_instead_of_a_folder(experts):
    assert "is one adapter; give the folder above it" in build(experts / "sort")


@pytest.mark.parametrize(
    ("router", "more", "message"),
    [
        ("arow-mbc", (), "unknown router 'arow-mbc': did you mean 'arrow-mbc'"),
        ("arrow-mbc", ("--option", "topk=2"), "no option 'topk': did you mean 'top_k'"),
        ("arrow-mbc", ("--option", "top_k=two"), "option top_k='two': input should be a valid integer"),
        ("arrow-mbc", ("--option", "top_k=2.5"), "option top_k=2.5: input should be a valid integer"),
        ("arrow-mbc", ("--option", "top_k=0"), "top-k needs k >= 1, not 0"),
        ("arrow-mbc", ("--option", "temperature=0"), "temperature above 0"),
        ("arrow-mbc", ("--option", "temperature=NaN"), "should be a finite number"),
        ("arrow-mbc", ("--option", "top_k"), "--option takes name=value, not 'top_k'"),
        ("arrow-mbc", ("--option", "top_k=1", "--option", "top_k=2"), "top_k is given twice"),
        ("x-lora", (), "trains its router: give it data"),
        ("x-lora", ("--data", "missing.jsonl"), "there is no data file 'missing.jsonl'"),
        ("arrow-mbc", ("--learning-rate", "-1"), "learning_rate must be above 0"),
    ],
)
def test_bad_recipes(router, more, message, experts):
    assert message in build(experts, *more, router=router)


@pytest.mark.parametrize("more", [("--steps", "0"), ("--steps", "many"), ("--batch-size", "0"), ("--unknown",)])
def test_usage_errors_exit_alike(more, experts):
    assert run("build", "pocket", experts, "--router", "x-lora", "--out", "out", *more).exit_code == 2


def test_bad_bases(experts):
    assert "there is no model folder './missing'" in build(experts, base="./missing")
    assert "cannot read a model from 'kept'" in build(experts, base="kept")
    base = shutil.copytree(pocket.base_path(), experts.parent / "base")
    (base / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes()[:-100])
    assert "cannot read the weights of" in build(experts, base=base)
    (base / "model.safetensors").unlink()
    assert "cannot read the weights of" in build(experts, base=base)


def test_out_that_is_something_else(here, experts):
    (here / "kept" / "note.txt").write_text("mine")
    for out in ("kept", "."):
        assert "is not empty and not a mixture" in refuse("build", "pocket", experts, "--router", "named", "--out", out)
    assert "note.txt" in refuse("build", "pocket", experts, "--router", "named", "--out", "kept/note.txt")
    assert (here / "kept" / "note.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "a"', "data.jsonl, line 3: not JSON"),
        ('{"prompt": "a", "answr": "b"}', "line 3: unknown field 'answr': did you mean 'answer'"),
        ('{"prompt": "", "answer": "b"}', "line 3: prompt: String should have at least 1 character"),
        (json.dumps({"prompt": "x" * CONTEXT, "answer": "b"}), "tokens"),
    ],
)
def test_bad_data(line, message, here, experts, arrow):
    given = data(here, GOOD, "", line)
    assert message in build(experts, *given, "--steps", 1, router="x-lora")
    assert message in refuse("eval", arrow, *given)


def test_a_separator_of_unicode_is_no_end_of_line(here, arrow):
    row = json.dumps({"prompt": "a\u2028b", "answer": "c"}, ensure_ascii=False)
    message = refuse("eval", arrow, *data(here, GOOD, row, '{"prompt": 1}'))
    assert "line 3: " in message


def test_too_long_for_its_answer(here, arrow):
    long = json.dumps({"prompt": "x" * (CONTEXT - 20), "answer": "b"})
    given = data(here, GOOD, "", long)
    assert "data.jsonl, line 3: the prompt has 237 tokens, which with an answer of 32" in refuse("eval", arrow, *given)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "the prompt is empty"),
        ("x" * CONTEXT, f"the prompt has {CONTEXT + 1} tokens"),
        ("\udcff", "is not valid Unicode text"),
    ],
)
def test_bad_prompts(prompt, message, arrow):
    assert message in refuse("generate", arrow, prompt)
    assert message in refuse("inspect", arrow, prompt, "--out", "routes.html")


def test_bad_tasks(here, arrow, named):
    assert "unknown task 'revers': did you mean 'reverse'" in refuse("generate", named, "a", "--task", "revers")
    assert "give --task" in refuse("generate", named, "a")
    assert "does not route by task; leave --task out" in refuse("generate", arrow, "a", "--task", "reverse")
    row = json.dumps({"prompt": "a", "answer": "b", "task": "revers"})
    given = data(here, GOOD, row)
    assert "line 2: unknown task 'revers': did you mean 'reverse'" in refuse("eval", named, *given)
    assert "leave --tasks out" in refuse("eval", arrow, *given, "--tasks")


def test_bad_mixtures(here, arrow):
    assert "'missing' is not a roster mixture" in refuse("generate", "missing", "a")
    assert "'kept' is not a roster mixture" in refuse("inspect", "kept", "a")
    broken = here.parent / "broken"
    shutil.copytree(arrow, broken)
    (broken / "roster.json").write_text("{")
    assert "cannot be read" in refuse("generate", broken, "a")


def test_bad_output_of_inspect(arrow):
    assert "a heat map is .html or .png, not 'routes.pdf'" in refuse("inspect", arrow, "a", "--out", "routes.pdf")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--temperature", "0.5"), "of use with --sample only"),
        (("--sample", "--temperature", "0"), "must be above 0"),
    ],
)
def test_bad_sampling(more, message, arrow):
    assert message in refuse("generate", arrow, "a", *more)


def test_bad_contender():
    assert "did you mean 'arrow-mbc'" in refuse("demo", "--methods", "arow-mbc", "--out", "report")


def test_missing_examples_name_card_and_field_before_a_base_is_looked_for(experts):
    edit(experts / "sort" / CARD, examples=[], description="")
    message = build(experts, router="lora-tle", base="./nowhere")
    assert f"{experts / 'sort' / CARD}" in message
    assert 'the field "examples"' in message
