"""The engine: the same bits for any piece, after any kill, in little memory; a folder that is whole or not there."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from roster.errors import RosterError
from roster.merge import parse_config, plan_merge
from roster.merge.method import MODEL
from roster.merge.methods import METHODS
from roster.weights import BLOCK, Copy, Operand, Output, make_plan, open_checkpoint, run
from roster.weights.writer import JOURNAL, Writer
from weights.recipes import EVERY, config_text, learned

HERE = Path(__file__).parent


def folder_bytes(folder):
    return {each.name: each.read_bytes() for each in sorted(folder.iterdir())}


def test_a_copy_is_what_safetensors_reads(models, tmp_path):
    values = models(torch.bfloat16)["b"]
    source = open_checkpoint(tmp_path / "b")
    outputs = [Output(name, spec, (Operand(source, name),), Copy()) for name, spec in source.specs.items()]
    run(make_plan(outputs, [source], max_shard=100_000), tmp_path / "out")
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(each.nbytes for each in values.values())
    for name, shard in index["weight_map"].items():
        with safe_open(tmp_path / "out" / shard, "pt") as opened:
            assert torch.equal(opened.get_tensor(name), values[name])
    assert set(index["weight_map"]) == set(values)
    assert not (tmp_path / "out" / JOURNAL).exists()
    assert not (tmp_path / ".out.partial").exists()


@pytest.mark.parametrize("slug", EVERY)
def test_where_pieces_are_cut_changes_no_bit(slug, models, tmp_path):
    models(torch.bfloat16)
    plan = parse_config(config_text(slug, tmp_path))
    for number, piece in enumerate((BLOCK, 2 * BLOCK, 64 * BLOCK)):
        run(plan_merge(plan, learned=learned(slug, tmp_path)), tmp_path / f"out{number}", piece=piece)
    first = (tmp_path / "out0" / "model.safetensors").read_bytes()
    assert first == (tmp_path / "out1" / "model.safetensors").read_bytes()
    assert first == (tmp_path / "out2" / "model.safetensors").read_bytes()


def test_every_method_is_among_them():
    assert {slug.partition(":")[0] for slug in EVERY} == {slug for slug, each in METHODS.items() if each.makes == MODEL}


@pytest.mark.parametrize("seed", [0])
def test_a_run_killed_at_random_moments_comes_to_the_same_bits(seed, models, tmp_path):
    models()
    config = tmp_path / "merge.yaml"
    config.write_text(config_text(EVERY[-1], tmp_path))
    run(plan_merge(parse_config(config.read_text()), 300_000), tmp_path / "undisturbed")
    command = [sys.executable, str(HERE / "killed.py"), str(config), str(tmp_path / "out"), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    killed, found = map(int, done.stdout.split())
    assert killed >= 3, "the moments must fall into the work"
    assert found > 0, "a run must have gone on from what an earlier one finished"
    assert folder_bytes(tmp_path / "out") == folder_bytes(tmp_path / "undisturbed")


def test_a_kill_after_the_swap_leaves_nothing_for_long(models, tmp_path):
    models()
    text = config_text("linear", tmp_path)
    run(plan_merge(parse_config(text)), tmp_path / "out")
    before = folder_bytes(tmp_path / "out")
    (tmp_path / "out" / JOURNAL).write_text("{}\n")
    with pytest.raises(RosterError, match="is there already"):
        Writer(plan_merge(parse_config(text)), tmp_path / "out")
    assert folder_bytes(tmp_path / "out") == before


def test_a_half_done_run_of_another_plan_is_not_taken_up(models, tmp_path):
    models()
    text = config_text("linear", tmp_path)
    with Writer(plan_merge(parse_config(text)), tmp_path / "out") as writer:
        writer.finish_tensor("model.norm.weight", {})
    with Writer(plan_merge(parse_config(text)), tmp_path / "out") as writer:
        assert list(writer.done) == ["model.norm.weight"]
    other = parse_config(text.replace("weight: [0.5, 1.5]", "weight: [0.5, 1.6]"))
    with Writer(plan_merge(other), tmp_path / "out") as writer:
        assert writer.done == {}


def test_a_source_that_was_replaced_is_not_taken_up(models, tmp_path):
    models()
    text = config_text("linear", tmp_path)
    with Writer(plan_merge(parse_config(text)), tmp_path / "out") as writer:
        writer.finish_tensor("model.norm.weight", {})
    os.utime(tmp_path / "m0" / "model.safetensors", ns=(1, 1))
    with Writer(plan_merge(parse_config(text)), tmp_path / "out") as writer:
        assert writer.done == {}


def test_two_runs_do_not_write_one_folder(models, tmp_path):
    models()
    plan = plan_merge(parse_config(config_text("linear", tmp_path)))
    with Writer(plan, tmp_path / "out"), pytest.raises(RosterError, match="another run"):
        Writer(plan, tmp_path / "out")


def test_an_existing_folder_is_replaced_only_when_asked_and_whole(models, tmp_path):
    values = models()
    plan = plan_merge(parse_config(config_text("linear", tmp_path)))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    with pytest.raises(RosterError, match="--overwrite"):
        run(plan, tmp_path / "out")
    assert (tmp_path / "out" / "old").read_text() == "old"
    run(plan, tmp_path / "out", overwrite=True)
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == values["b"].keys()
    assert sorted(each.name for each in tmp_path.iterdir() if each.name.startswith(".")) == []


def test_a_kill_between_the_renames_of_a_swap_leaves_the_old_folder(models, tmp_path):
    models()
    plan = plan_merge(parse_config(config_text("linear", tmp_path)))
    run(plan, tmp_path / "out")
    whole = folder_bytes(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / ".out.old")
    with pytest.raises(RosterError, match="--overwrite"):
        run(plan, tmp_path / "out")
    assert folder_bytes(tmp_path / "out") == whole


def test_a_full_disk_is_known_before_it_is_full(models, tmp_path, monkeypatch):
    models()
    plan = plan_merge(parse_config(config_text("linear", tmp_path)))
    usage = os.statvfs(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("", (), {"free": 1000, "total": usage.f_blocks})())
    with pytest.raises(RosterError, match="1,000 are free"):
        run(plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / ".out.partial").exists()


def test_a_disk_that_fills_up_while_writing_leaves_nothing_half_written(models, tmp_path, monkeypatch):
    models()
    plan = plan_merge(parse_config(config_text("linear", tmp_path)))
    real, calls = os.pwrite, []

    def pwrite(file, view, at):
        calls.append(at)
        if len(calls) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, view, at)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(RosterError, match="No space left on device"):
        run(plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    run(plan, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").exists()


MEMORY = """
import resource, sys
from roster.merge import parse_config, plan_merge
from roster.weights import run
plan = plan_merge(parse_config(open(sys.argv[1]).read()))
now = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (now + (100 << 20), now + (100 << 20)))
run(plan, sys.argv[2])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, limits the address space")
def test_a_tensor_larger_than_the_memory_allowed(tmp_path):
    """Two models with a tensor of 160 MB each, 100 MiB of address space besides what the imports took."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        header = {"w": {"dtype": "BF16", "shape": [8000, 10000], "data_offsets": [0, 160_000_000]}}
        text = json.dumps(header).encode()
        with (tmp_path / name / "model.safetensors").open("wb") as opened:
            opened.write(len(text).to_bytes(8, "little") + text)
            opened.truncate(8 + len(text) + 160_000_000)
    config = tmp_path / "merge.yaml"
    config.write_text(
        f"merge_method: linear\nparameters: {{weight: 1}}\nmodels: [{{model: {tmp_path}/a}}, {{model: {tmp_path}/b}}]"
    )
    done = subprocess.run([sys.executable, "-c", MEMORY, config, tmp_path / "out"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "model.safetensors").stat().st_size > 160_000_000


def test_reading_is_what_numpy_reads(models, tmp_path):
    values = models()["b"]
    source = open_checkpoint(tmp_path / "b")
    got = source.read("model.layers.0.mlp.down_proj.weight", 12345, 200_001)
    assert np.array_equal(got.numpy(), values["model.layers.0.mlp.down_proj.weight"].numpy().ravel()[12345:200_001])
