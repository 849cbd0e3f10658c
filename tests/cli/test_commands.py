"""What each command prints and writes."""

import json
import subprocess
import sys

import pytest
import torch

import roster
from cli.conftest import refuse, run, succeed
from roster import pocket
from roster.arena.evaluate import wilson
from roster.library import Library
from roster.library.card import CARD
from roster.library.gates import GATES, write_gates
from roster.pocket.skills import COMPOSED, HELD_IN, examples
from roster.recipes import RECIPES


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_help_loads_nothing_heavy():
    done = python("import sys, roster.cli; print({'torch', 'transformers', 'pydantic', 'numpy'} & set(sys.modules))")
    assert done.stdout == "set()\n", done.stderr


def test_methods_loads_no_transformers():
    done = python("import sys, roster.recipes; print({'transformers', 'peft', 'sklearn'} & set(sys.modules))")
    assert done.stdout == "set()\n", done.stderr


def test_other_packages_do_not_talk_between_our_lines():
    words = ["roster", "attack", "pocket", "--recipe", "gshard-top2", "--victims", "1", "--attempts", "1"]
    done = python(f"import sys; sys.argv = {words}; from roster.cli import main; main()")
    assert done.stdout.endswith("No batch-mate changed the output of any victim.\n")
    assert done.stderr == ""


def test_nothing_asked_shows_the_help():
    assert "Commands" in run().output
    assert succeed("--version") == f"roster {roster.__version__}\n"
    assert run("no-such-command").exit_code == 2
    assert run("build", "pocket").exit_code == 2


def test_methods_one_line_each():
    shown = succeed("methods")
    assert all(slug in shown for slug in RECIPES)
    catalogue = json.loads(succeed("methods", "--json"))
    assert catalogue.keys() == RECIPES.keys()
    for slug, fields in catalogue.items():
        assert list(fields) == [
            "kind", "source", "trains", "batch_invariant", "claim", "claim_shown", "claim_verdict", "evidence"
        ]  # fmt: skip
        assert fields["trains"] in ("nothing", "router", "experts", "router and experts", "everything")
        assert fields == {key: getattr(RECIPES[slug], key) for key in fields}
        # True is said of a shown claim alone, and what is undecided is neither true nor false.
        assert fields["claim_shown"] == {"shown": True, "refuted": False}.get(fields["claim_verdict"])
        assert (fields["claim"] is None) == (fields["claim_verdict"] is None)


def test_methods_are_filtered():
    every = json.loads(succeed("methods", "--json"))
    undecided = json.loads(succeed("methods", "--json", "--kind", "moe", "--verdict", "undecided"))
    assert undecided == {
        slug: each for slug, each in every.items() if each["kind"] == "moe" and each["claim_verdict"] == "undecided"
    }
    assert set(json.loads(succeed("methods", "--json", "--verdict", "none"))) >= {"uniform", "dense-active"}
    assert "rmoe" in json.loads(succeed("methods", "layerwise", "RECURRENT", "--json"))
    assert "did you mean 'moe'" in refuse("methods", "--kind", "meo")
    assert "did you mean 'shown'" in refuse("methods", "--verdict", "show")
    assert "did you mean 'rmoe'" in refuse("methods", "rmoee")


def test_one_method_whole():
    told = succeed("methods", "rmoe")
    recipe = RECIPES["rmoe"]
    for part in (
        recipe.title,
        recipe.source,
        recipe.claim,
        "Equation: ",
        "Differences: ",
        "num_experts=8",
        "verdict: ",
    ):
        assert part in told
    whole = json.loads(succeed("methods", "rmoe", "--json"))["rmoe"]
    assert whole["options"] == recipe.options()
    assert tuple(whole["declarations"]) == recipe.verdict.declarations
    for each in whole["declarations"]:
        assert f"declared as {each['name']}, version {each['version']}: {each['verdict']}" in told


def test_build_passes_everything_on(here, experts):
    succeed("build", "pocket", experts, "--router", "arrow-mbc", "--option", "top_k=1", "--base", "--out", "mixture")
    model = roster.load(here / "mixture")
    assert model.roster.options == {"top_k": 1}
    assert list(model.roster.experts) == ["reverse", "sort"]
    assert (here / "mixture" / "base" / "config.json").exists()


def test_gates_that_are_there_need_no_data(here, experts):
    model = pocket.load_base()[0]
    for adapter in Library.read(experts).values():
        write_gates(adapter.path, {site: torch.ones(model.get_submodule(site).in_features) for site in adapter.modules})
    succeed("build", "pocket", experts, "--router", "phatgoose", "--out", "mixture")
    assert roster.load(here / "mixture").roster.recipe == "phatgoose"
    (experts / "sort" / GATES).unlink()
    assert "expert 'sort' has no gate vectors" in refuse(
        "build", "pocket", experts, "--router", "phatgoose", "--out", "other"
    )
    assert sorted(path.name for path in here.iterdir()) == ["mixture"]


def test_a_mixture_without_its_base_is_told_where_it_is(here, experts):
    base = pocket.base_path()
    succeed("build", base, experts, "--router", "named", "--no-base", "--out", "mixture")
    assert "give --base" in refuse("generate", "mixture", "reverse: abc =")
    told = succeed("generate", "mixture", "reverse: abc =", "--task", "reverse", "--base", base)
    assert told.strip() == "cba"


def test_generate_prints_the_completion_only(named):
    assert succeed("generate", named, "reverse: abcd =", "--task", "reverse").strip() == "dcba"
    assert len(succeed("generate", named, "reverse: abcd =", "--task", "sort", "--max-new-tokens", 2)) == 3


def test_generate_samples_by_its_seed(arrow):
    def drawn(seed):
        return succeed("generate", arrow, "a", "--sample", "--temperature", 3, "--seed", seed, "--max-new-tokens", 20)

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


@pytest.mark.parametrize(("suffix", "start"), [(".html", b"<!doctype html"), (".png", b"\x89PNG")])
def test_inspect(suffix, start, arrow, here):
    out = here / "new" / f"routes{suffix}"
    shown = succeed("inspect", arrow, "reverse: abcd =", "--generate", 3, "--out", out)
    assert "Load per layer" in shown
    assert "layer 3" in shown
    assert out.read_bytes()[: len(start)].lower() == start.lower()


def test_eval(named, here):
    asked = [each for skill in ("reverse", "upper") for each in examples(skill, "test", 3)]
    rows = [{"prompt": each.prompt, "answer": f" {each.answer}", "task": each.skill} for each in asked]
    rows[0]["answer"] = "wrong"
    (here / "data.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    result = json.loads(succeed("eval", named, "--data", "data.jsonl", "--json", "--batch-size", 4))
    low, high = wilson(5, 6)
    assert result["recipe"] == "named"
    assert result["mixture"]["all"] == {"accuracy": 5 / 6, "low": low, "high": high, "right": 5, "rows": 6}
    assert result["mixture"]["tasks"]["reverse"]["right"] == 2
    assert result["mixture"]["tasks"]["upper"]["right"] == 3
    assert result["base"]["all"]["right"] < 5
    assert result["entropy"] == 0, "one expert per token"
    untold = json.loads(succeed("eval", named, "--data", "data.jsonl", "--json", "--no-tasks"))
    assert untold["mixture"] == untold["base"] == result["base"], "nobody on duty"
    assert untold["entropy"] is None
    shown = succeed("eval", named, "--data", "data.jsonl", "--no-base-too")
    assert "83.3 [43.6, 97.0]" in shown
    assert "base" not in shown


def test_experts_list_and_show(experts):
    listed = succeed("experts", "list", experts)
    library = Library.read(experts)
    for name, adapter in library.items():
        assert name in listed
        assert adapter.weights_hash[:12] in listed
    shown = succeed("experts", "show", experts, "reverse")
    assert library["reverse"].weights_hash in shown
    assert all(module in shown for module in library["reverse"].modules)
    assert "did you mean 'reverse'" in refuse("experts", "show", experts, "revers")


def test_experts_check_refreshes_cards(experts):
    card = experts / "sort" / CARD
    fields = json.loads(card.read_text())
    card.write_text(json.dumps({**fields, "weights_hash": "0" * 64, "base_hash": None}))
    result = run("experts", "check", experts)
    assert result.exit_code == 2
    assert "stale" in result.stdout
    succeed("experts", "check", experts, "--base", "pocket", "--refresh")
    assert json.loads(card.read_text())["weights_hash"] != "0" * 64
    assert len(json.loads(card.read_text())["base_hash"]) == 64
    assert "0 of 2 cards changed" in succeed("experts", "check", experts, "--base", "pocket", "--refresh")


def test_experts_check_reports_every_bad_one(experts):
    for name in ("reverse", "sort"):
        (experts / name / "adapter_model.safetensors").write_bytes(b"\0" * 20)
    result = run("experts", "check", experts)
    assert result.exit_code == 2
    assert result.stdout.count("is damaged") == 2
    assert result.stderr == "error: 2 of 2 experts cannot be used\n"


def test_experts_check_holds_them_against_the_base(experts):
    config = experts / "sort" / CARD
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_hash": "f" * 64}))
    result = run("experts", "check", experts, "--base", "pocket")
    assert result.exit_code == 2
    assert "bad   sort: expert 'sort' belongs to a base with the hash ffff" in result.stdout
    assert "good  reverse" in result.stdout


def test_pocket_data(here):
    rows = [json.loads(line) for line in succeed("pocket", "data", "--count", 1).splitlines()]
    assert [row["task"] for row in rows] == list(HELD_IN)
    succeed("pocket", "data", "--group", "composed", "--count", 1, "--out", "data.jsonl")
    assert len((here / "data.jsonl").read_text().splitlines()) == len(COMPOSED)
    one = json.loads(succeed("pocket", "data", "--skill", "sort", "--split", "test", "--count", 1, "--seed", 3))
    example = examples("sort", "test", 1, 3)[0]
    assert one == {"prompt": example.prompt, "answer": example.answer, "task": "sort"}
    assert "did you mean 'unseen'" in refuse("pocket", "data", "--group", "unsen")
    assert "did you mean 'sort'" in refuse("pocket", "data", "--skill", "sorte")
    assert "not both" in refuse("pocket", "data", "--skill", "sort", "--group", "unseen")
