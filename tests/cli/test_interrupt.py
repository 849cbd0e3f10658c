"""Ctrl-C during a training: nothing half-written, and the same command finishes it."""

import json
import signal
import subprocess
import sys
import time

import pytest

import roster
from cli.conftest import refuse, succeed
from roster import RosterError
from roster.train.plan import PLAN, scratch_folder

STEPS = 16  # a checkpoint every 4


@pytest.fixture
def command(here):
    succeed("pocket", "data", "--count", 2, "--skill", "reverse", "--skill", "sort", "--out", here / "data.jsonl")
    return ["build", "pocket", "pocket", "--router", "smear", "--option", "train_experts=false", "--out", "routed",
            "--data", "data.jsonl", "--steps", str(STEPS), "--batch-size", "2"]  # fmt: skip


def test_interrupt_and_resume(here, command):
    # A shell's background jobs ignore the interrupt, and hand that on.
    process = subprocess.Popen(
        [sys.executable, "-c", "from roster.cli import main; main()", *command],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 100
        while not (here / "routed.training" / "checkpoint-4" / "trainer_state.json").exists():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, stderr
    assert "run the same command again" in stderr
    assert "Traceback" not in stderr
    assert sorted(path.name for path in here.iterdir()) == ["data.jsonl", "routed.training"]

    assert "interrupted training with another settings" in refuse(*command, "--seed", 1)
    assert not (here / "routed").exists()

    assert "wrote routed" in succeed(*command)
    assert sorted(path.name for path in here.iterdir()) == ["data.jsonl", "routed"]
    assert roster.load(here / "routed").roster.recipe == "smear"


def test_a_folder_of_the_users_is_left_alone(here, command):
    (here / "routed.training").mkdir()
    (here / "routed.training" / "note.txt").write_text("mine")
    assert "where something else is" in refuse(*command)
    assert (here / "routed.training" / "note.txt").read_text() == "mine"


def break_off(folder, *files):
    with scratch_folder(folder, {"a": (1,)}):
        for name in files:
            (folder / name).mkdir()
        raise KeyboardInterrupt


def test_scratch_is_kept_only_for_checkpoints(tmp_path):
    folder = tmp_path / "scratch"
    with pytest.raises(KeyboardInterrupt):
        break_off(folder)
    assert not folder.exists()
    with pytest.raises(KeyboardInterrupt):
        break_off(folder, "checkpoint-1")
    assert json.loads((folder / PLAN).read_text()) == {"a": [1]}
    with pytest.raises(RosterError, match="another a"), scratch_folder(folder, {"a": (2,)}):
        pass
    with scratch_folder(folder, {"a": (1,)}):
        assert (folder / "checkpoint-1").exists()
    assert not folder.exists()
