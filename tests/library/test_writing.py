"""Adapters are written whole or not at all, and only when a reader would find the same."""

import json
from dataclasses import replace

import peft
import pytest
import torch

from roster import RosterError
from roster.library import Card, LowRank, make_adapter, read_adapter, write_adapter, writing
from roster.library.config import CONFIG, config_json
from roster.library.gates import GATES, read_gates, write_gates
from roster.library.reading import WEIGHTS


def adapter(name="one", value=1.0, **changes):
    update = LowRank(torch.full((2, 4), value), torch.ones(3, 2), 0.5)
    return replace(make_adapter(name, {"layer": update}, base="b"), **changes)


def listing(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_written(tmp_path):
    path = write_adapter(tmp_path / "made" / "here", adapter())
    assert path == tmp_path / "made" / "here" / "one"
    assert listing(path) == [CONFIG, WEIGHTS, "card.json"]
    assert path.stat().st_mode == (tmp_path / "made").stat().st_mode


def test_the_same_bytes_every_time(tmp_path):
    first, second = (bytes_of(write_adapter(tmp_path / each, adapter())) for each in "ab")
    assert first == second


def test_dtype(tmp_path):
    written = read_adapter(write_adapter(tmp_path, adapter(), dtype=torch.bfloat16))
    assert {t.dtype for u in written.modules.values() for t in (u.A_RD, u.B_OR)} == {torch.bfloat16}
    assert written.card.weights_hash == written.weights_hash != adapter().weights_hash


def test_tensors_that_share_memory(tmp_path):
    shared = torch.randn(2, 4)
    updates = {each: LowRank(shared, torch.randn(2, 3).T, 1.0) for each in ("a", "b")}
    written = read_adapter(write_adapter(tmp_path, make_adapter("one", updates, base="b")))
    assert torch.equal(written.modules["b"].B_OR, updates["b"].B_OR)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b", "x" * 256])
def test_names_that_no_folder_can_have(name, tmp_path):
    with pytest.raises(RosterError, match="cannot be the name of a folder"):
        write_adapter(tmp_path, adapter(name))
    assert listing(tmp_path) == []


def test_no_overwriting_unless_asked(tmp_path):
    write_adapter(tmp_path, adapter())
    with pytest.raises(RosterError, match="already there; pass overwrite=True"):
        write_adapter(tmp_path, adapter(value=2.0))
    assert read_adapter(write_adapter(tmp_path, adapter(value=2.0), overwrite=True)).modules["layer"].A_RD[0, 0] == 2


def test_overwriting_keeps_what_is_not_ours(tmp_path):
    path = write_adapter(tmp_path, adapter())
    (path / "README.md").write_text("mine")
    (path / "runs").mkdir()
    (path / "runs" / "log").write_text("mine too")
    write_gates(path, {"layer": torch.ones(4)})
    write_adapter(tmp_path, adapter(value=2.0), overwrite=True)
    # The gates were trained for the old weights.
    assert listing(path) == ["README.md", CONFIG, WEIGHTS, "card.json", "runs", "runs/log"]


def test_overwriting_only_adapters(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "thesis.tex").write_text("mine")
    with pytest.raises(RosterError, match="is not an adapter; roster does not replace it"):
        write_adapter(tmp_path, adapter(), overwrite=True)
    assert (tmp_path / "one" / "thesis.tex").read_text() == "mine"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("step", ["weights", "config", "card", "rename"])
def test_failing_midway_leaves_everything_as_it_was(step, overwrite, tmp_path, monkeypatch):
    if overwrite:
        write_adapter(tmp_path, adapter())
    before = listing(tmp_path), [bytes_of(path) for path in tmp_path.iterdir()]

    def fail(*arguments, **keywords):
        raise OSError("disk full")

    def fail_moving(self, target):
        if self.name == ".one.new":
            raise OSError("disk full")
        return rename(self, target)

    rename = type(tmp_path).rename
    owner, name, broken = {
        "weights": (writing, "save_file", fail),
        "config": (writing, "config_json", fail),
        "card": (Card, "write", fail),
        "rename": (type(tmp_path), "rename", fail_moving),
    }[step]
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, broken)
        with pytest.raises(RosterError, match=r"cannot write '.*one': disk full"):
            write_adapter(tmp_path, adapter(value=2.0), overwrite=overwrite)
    assert (listing(tmp_path), [bytes_of(path) for path in tmp_path.iterdir()]) == before


@pytest.mark.parametrize(
    "modules",
    [
        {"layer": LowRank(torch.ones(2, 4), torch.ones(3, 2), 0.7)},
        {"layer": LowRank(torch.ones(1, 4), torch.ones(3, 1), 1.0)},
        {"layer2": LowRank(torch.ones(2, 4), torch.ones(3, 2), 0.5)},
    ],
)
def test_updates_that_the_config_does_not_describe(modules, tmp_path):
    with pytest.raises(RosterError, match="is not what its config says: build it with make_adapter"):
        write_adapter(tmp_path, adapter(modules=modules))


def test_values_that_are_not_finite(tmp_path):
    with pytest.raises(RosterError, match=r"adapter 'one': tensor '.*layer\.lora_A\.weight' holds values that are not"):
        write_adapter(tmp_path, adapter(value=float("nan")))
    assert listing(tmp_path) == []


@pytest.mark.parametrize(
    ("modules", "match"),
    [
        ({}, "would change nothing"),
        ({"a": LowRank(torch.ones(2, 4), torch.ones(3, 1), 1.0)}, r"A \[2, 4\] and B \[3, 1\]"),
        ({"a": LowRank(torch.ones(0, 4), torch.ones(3, 0), 1.0)}, r"A \[0, 4\]"),
        ({"a": LowRank(torch.ones(4), torch.ones(3, 2), 1.0)}, r"A \[4\]"),
        ({"a": LowRank(torch.ones(2, 4), torch.ones(3, 2), float("inf"))}, "scale of 'a' is inf"),
    ],
)
def test_make_adapter_refuses(modules, match):
    with pytest.raises(RosterError, match=match):
        make_adapter("one", modules, base="b")


def test_gates(tmp_path):
    path = write_adapter(tmp_path, adapter())
    with pytest.raises(RosterError, match="has no gate vectors"):
        read_gates(read_adapter(path))
    write_gates(path, dict(zip(["layer"], torch.arange(4.0)[None], strict=True)))
    assert read_gates(read_adapter(path))["layer"].tolist() == [0, 1, 2, 3]
    for gates, match in (
        ({"other": torch.ones(4)}, "differ in the layer"),
        ({"layer": torch.ones(3)}, "not a finite vector of 4"),
        ({"layer": torch.full((4,), torch.nan)}, "not a finite vector of 4"),
    ):
        write_gates(path, gates)
        with pytest.raises(RosterError, match=match):
            read_gates(read_adapter(path))
    (path / GATES).write_bytes(b"no")
    with pytest.raises(RosterError, match="cannot be read"):
        read_gates(read_adapter(path))


def test_layers_are_listed_in_one_order_whatever_the_hash_seed():
    names = [f"layer_{letter}" for letter in "hgfedcba"]
    written = json.loads(config_json(peft.LoraConfig(target_modules=names, exclude_modules=names[:3])))
    assert written["target_modules"] == sorted(names)
    assert written["exclude_modules"] == sorted(names[:3])
