"""Merges that train: planned on headers, the same bits after a kill, told of in merge.json, refused before any work."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cli.conftest import refuse, succeed
from roster.errors import RosterError
from roster.library import read_adapter
from roster.merge import merge_models
from roster.weights.source import Checkpoint
from weights.test_run import folder_bytes

KINDS = {
    "pamal": (["m0", "m1"], None, {"steps": 3, "batch": 4, "rays": 2, "order": 0.5}),
    "palora": ([], "b", {"steps": 3, "batch": 4, "rank": 2, "rate": 1e-3}),
    "wemoe-merging": (["m0", "m1"], "b", {"steps": 3, "batch": 4, "rate": 1e-2}),
}
DATA = ["d0.jsonl", "d1.jsonl"]
BESIDE = {"pamal": "front.json", "palora": "front.json", "wemoe-merging": "gates.json"}


def made(slug, out, **more):
    models, base, settings = KINDS[slug]
    return merge_models(slug, models, out, base=base, data=DATA, **{**settings, **more})


def command(slug, *more):
    models, base, settings = KINDS[slug]
    words = ["merge", "--method", slug, *(w for each in models for w in ("--model", each))]
    words += [w for each in DATA for w in ("--data", each)] + ([] if base is None else ["--base", base])
    return [*words, *(w for name, value in settings.items() for w in ("--option", f"{name}={value}")), *more]


def every_file(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("slug", KINDS)
def test_a_plan_reads_headers_alone_and_says_what_is_held(slug, family, monkeypatch):
    monkeypatch.chdir(family)
    monkeypatch.setattr(Checkpoint, "fill", lambda *_: pytest.fail("a weight was read"))
    told = succeed(*command(slug, "--plan"))
    memory = int(re.search(r"in memory, ([\d,]+) bytes", told)[1].replace(",", ""))
    weights = sum(each.numel() for each in load_file("b/model.safetensors").values())
    # 16 bytes of what is trained and 8 of a composed model; or 4 of the base, and the differences.
    least = {"pamal": (16 * 2 + 8) * weights, "palora": 24 * weights, "wemoe-merging": 4 * weights}[slug]
    assert least <= memory < least + 24 * weights
    assert "model.safetensors" in told
    assert sorted(each.name for each in family.iterdir()) == ["b", "d0.jsonl", "d1.jsonl", "m0", "m1"]


def test_runs_that_are_killed_come_to_the_same_bits(family, monkeypatch):
    monkeypatch.chdir(family)
    asked = []
    for slug, (models, base, settings) in KINDS.items():
        made(slug, f"undisturbed-{slug}")
        asked.append({"method": slug, "models": models, "base": base, "data": DATA, "out": f"out-{slug}", **settings})
    script = Path(__file__).with_name("killed_training.py")
    done = subprocess.run([sys.executable, script, json.dumps(asked)], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    for slug, told in zip(KINDS, done.stdout.splitlines(), strict=True):
        killed, taken_up = map(int, told.split())
        assert killed >= 2, slug
        assert taken_up, "a run must have gone on with what an earlier one had trained"
        assert every_file(family / f"out-{slug}") == every_file(family / f"undisturbed-{slug}")
    assert not [each for each in family.iterdir() if each.name.startswith(".out")]


@pytest.mark.parametrize("slug", KINDS)
def test_what_it_did_is_told(slug, family, monkeypatch):
    monkeypatch.chdir(family)
    assert "figures: out/merge.html" in succeed(*command(slug, "--out", "out", "--option", "seed=3"))
    content = json.loads((family / "out" / "merge.json").read_text())
    assert content["method"] == slug
    base, first, second = (load_file(f"{each}/model.safetensors") for each in ("b", "m0", "m1"))
    name = "model.layers.1.self_attn.q_proj.weight"
    if slug == "pamal":
        assert [each["base"] for each in content["parts"]] == ["m0", "m1"]
        found = content["parts"][1]["tensors"][f"member-1/model:{name}"]
        trained, start = load_file("out/member-1/model.safetensors")[name], second[name]
        wanted = (first[name] - start).norm()
        torch.testing.assert_close(torch.tensor(found["norms"]), wanted[None], rtol=1e-4, atol=0)
    elif slug == "palora":
        found = content["parts"][0]["tensors"][f"model/model:{name}"]
        trained, start = load_file("out/model/model.safetensors")[name], base[name]
    else:
        found = content["parts"][0]["tensors"][name]
        start = base[name]
        trained = start + 0.3 * (first[name] - start) + 0.3 * (second[name] - start)
        assert content["parts"][0]["tensors"]["model.layers.1.mlp.up_proj.weight"]["norm"] == 0
    torch.testing.assert_close(torch.tensor(found["norm"]), (trained - start).norm(), rtol=1e-3, atol=0)
    beside = json.loads((family / "out" / BESIDE[slug]).read_text())
    assert beside["training"]["seed"] == 3
    assert b"<html" in (family / "out" / "merge.html").read_bytes()


def test_the_adapters_of_a_front_are_whole(family, monkeypatch):
    monkeypatch.chdir(family)
    made("palora", "out")
    for task in range(2):
        adapter = read_adapter(family / "out" / f"task-{task}")
        assert adapter.card.weights_hash == adapter.weights_hash
        assert {each.A_RD.shape[0] for each in adapter.modules.values()} == {2}


@pytest.mark.parametrize("slug", KINDS)
def test_bad_input_is_refused_before_a_weight_is_read(slug, family, monkeypatch):
    monkeypatch.chdir(family)
    monkeypatch.setattr(Checkpoint, "fill", lambda *_: pytest.fail("a weight was read"))
    target = "b" if slug == "palora" else "m0"
    for option, said in (("seed=-1", "seed=-1"), ("seed=2.5", "seed=2.5"), ("stepps=1", "did you mean 'steps'")):
        assert said in refuse(*command(slug, "--out", "out", "--option", option))
    assert "learns from data" in refuse(*(w for w in command(slug, "--out", "out") if w not in ("--data", *DATA)))
    whole = (family / target / "model.safetensors").read_bytes()
    (family / target / "model.safetensors").write_bytes(whole[:-10])
    assert "bytes" in refuse(*command(slug, "--out", "out"))
    tensors = load_file_of(whole, family)
    tensors["model.extra.weight"] = torch.zeros(3)
    save_file(tensors, family / target / "model.safetensors", metadata={"format": "pt"})
    if slug != "palora":
        assert "'model.extra.weight', and" in refuse(*command(slug, "--out", "out"))
    assert not (family / "out").exists()
    assert not [each for each in family.iterdir() if each.name.startswith(".out.partial")]


def load_file_of(content, folder):
    (folder / "whole.safetensors").write_bytes(content)
    return load_file(folder / "whole.safetensors")


@pytest.mark.parametrize("slug", KINDS)
def test_too_little_memory_is_said_and_leaves_nothing(slug, family, monkeypatch):
    monkeypatch.chdir(family)
    monkeypatch.setattr("roster.weights.whole._free", lambda: 1000)
    with pytest.raises(RosterError, match="1,000 are free"):
        made(slug, "out")
    assert not (family / "out").exists()


def test_a_folder_that_is_there_is_replaced_whole(family, monkeypatch):
    monkeypatch.chdir(family)
    for slug in KINDS:
        made(slug, "out", overwrite=True, steps=0)
        made(slug, f"alone-{slug}", steps=0)
        assert every_file(family / "out").keys() == every_file(family / f"alone-{slug}").keys()
    assert folder_bytes(family / "b").keys() == {p.name for p in (family / "b").iterdir()}
