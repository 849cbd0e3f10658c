"""Which back end runs."""

import os
import subprocess
import sys
import time

import pytest
import torch

from roster.dispatch import choose, measured, use
from roster.errors import RosterError


@pytest.fixture
def nothing_measured():
    before = dict(choose._measured)
    choose.forget()
    yield
    choose._measured.update(before)


def trials(seen: list[str]):
    def slow():
        seen.append("slow")
        stop = time.thread_time() + 0.01
        while time.thread_time() < stop:
            pass

    return {"slow": slow, "quick": lambda: seen.append("quick")}


@pytest.mark.usefixtures("nothing_measured")
def test_the_quickest_is_measured_once():
    seen: list[str] = []
    cpu = torch.device("cpu")
    assert choose.fastest("key", choose.TOO_SMALL, trials(seen), cpu) == "quick"
    assert measured() == {"key": "quick"}
    runs = len(seen)
    assert choose.fastest("key", choose.TOO_SMALL, trials(seen), cpu) == "quick"
    assert len(seen) == runs, "the second call only looks it up"


@pytest.mark.usefixtures("nothing_measured")
def test_small_work_is_not_measured():
    seen: list[str] = []
    assert choose.fastest("key", choose.TOO_SMALL - 1, trials(seen), torch.device("cpu")) == "slow"
    assert not seen


@pytest.mark.usefixtures("nothing_measured")
def test_measuring_is_hidden_from_the_caller():
    """Neither hooks on saved tensors nor autocast reach the trials, so that checkpoints count the same tensors."""
    seen = []

    def trial():
        seen.append(torch.is_autocast_enabled("cpu"))
        (torch.ones(2, requires_grad=True) * 2).exp().sum().backward()

    def refuse(_):
        raise AssertionError("a trial's tensor reached the caller's hook")

    with torch.autograd.graph.saved_tensors_hooks(refuse, refuse), torch.autocast("cpu"), torch.no_grad():
        choose.fastest("key", choose.TOO_SMALL, {"a": trial, "b": trial}, torch.device("cpu"))
    assert seen
    assert not any(seen)


def test_use_nests_and_ends():
    assert choose.forced() is None
    with use("reference"):
        with use("blocks"):
            assert choose.forced() == "blocks"
        assert choose.forced() == "reference"
    assert choose.forced() is None


def test_unknown_names():
    with pytest.raises(RosterError, match="did you mean 'blocks'"), use("block"):
        pass


def test_environment():
    script = "from roster.dispatch import choose; print(choose.forced())"
    env = {**os.environ, "ROSTER_DISPATCH": "reference"}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
    assert done.stdout.strip() == "reference", done.stderr
