"""`merge_models`: the same bytes as the command line, for streamed methods and for those that train."""

import pytest
import torch
from safetensors.torch import load_file

import roster.merge
from cli.conftest import succeed
from roster.errors import RosterError
from roster.merge import METHODS, merge_models, parse_config, plan_merge
from roster.recipes import RECIPES


@pytest.mark.parametrize(
    ("method", "base", "settings", "data"),
    [
        ("linear", None, {"weight": [0.3, 0.7]}, 0),
        ("regmean", None, {"reduction": 0.7}, 2),
        ("atlas", "b", {"steps": 2, "batch": 4}, 1),
        ("pamal", None, {"steps": 1, "batch": 4, "rays": 2}, 2),
        ("wemoe-merging", "b", {"steps": 1, "batch": 4, "rank": 2}, 1),
    ],
)
def test_it_is_what_the_command_line_does(method, base, settings, data, family, monkeypatch):
    monkeypatch.chdir(family)
    files = [f"d{i}.jsonl" for i in range(data)]
    merge_models(method, ["m0", "m1"], "ours", base=base, data=files, **settings)
    words = [w for name, value in settings.items() for w in ("--option", f"{name}={value}")]
    words += [w for each in files for w in ("--data", each)] + ([] if base is None else ["--base", base])
    succeed("merge", "--method", method, "--model", "m0", "--model", "m1", *words, "--out", "theirs")
    ours, theirs = (
        {str(p.relative_to(family / n)): p for p in sorted((family / n).rglob("*")) if p.is_file()}
        for n in ("ours", "theirs")
    )
    assert ours.keys() == theirs.keys()
    for name, file in ours.items():
        if name.endswith(".safetensors"):
            other = load_file(theirs[name])
            assert all(torch.equal(each, other[key]) for key, each in load_file(file).items())
    with pytest.raises(RosterError, match="is there already"):
        merge_models(method, ["m0", "m1"], "ours", base=base, data=files, **settings)


def test_a_recipe_runs_its_method(family, monkeypatch):
    monkeypatch.chdir(family)
    RECIPES["model-breadcrumbs"]({"beta": 0.3})(["m0", "m1"], "made", base="b")
    words = [w for each in ("beta=0.3", "gamma=0.1", "weight=0.4") for w in ("--option", each)]
    command = ["merge", "--method", "model-breadcrumbs", "--base", "b", "--model", "m0", "--model", "m1"]
    succeed(*command, *words, "--out", "theirs")
    made, theirs = (load_file(family / each / "model.safetensors") for each in ("made", "theirs"))
    assert all(torch.equal(each, theirs[name]) for name, each in made.items())


def test_what_trains_is_a_method_like_others(family):
    with pytest.raises(RosterError, match="'pamal' learns from data"):
        plan_merge(parse_config(f"merge_method: pamal\nmodels: [{{model: {family}/m0}}]\n"))
    with pytest.raises(RosterError, match="did you mean 'pamal'"):
        plan_merge(parse_config("merge_method: pamall\nmodels: [{model: a}]\n"))
    assert {"pamal", "palora", "wemoe-merging"} <= METHODS.keys()
    with pytest.raises(AttributeError, match="no attribute"):
        roster.merge.merge_model  # noqa: B018
