"""Runs tests in a child of this process, which has imported the slow packages but nothing of roster and no test.

A child takes a second to start where a fresh Python takes ten. Its output goes to a file; what it found comes back
through a pipe; when it takes too long it is ended with everything that it started.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import pytest

from mutants.rooms import LEFT_OUT_TESTS

SLOW = "torch transformers transformers.trainer peft sklearn.linear_model scipy.stats hypothesis openai fastapi uvicorn"
SLOW += " aiohttp schemathesis prometheus_client typer rich matplotlib transformers.models.llama.modeling_llama"
# pytest warns of plugins that were imported before it could rewrite them: hypothesis and others, here on purpose.
PYTEST = ["-x", "-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]


def warm_up() -> None:
    """Imports what takes long, once."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in SLOW.split():
            importlib.import_module(name)


class Chosen:
    """A pytest plugin: keeps the tests that were asked for, in that order, and remembers the first that failed."""

    def __init__(self, tests: Sequence[str]) -> None:
        self.place = {test: at for at, test in enumerate(tests)}
        self.failed: str | None = None

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Drops what was not asked for."""
        known = [(self._place(each), each) for each in items]
        items[:] = [each for place, each in sorted(known, key=lambda pair: pair[0] or 0) if place is not None]

    def _place(self, item: pytest.Item) -> int | None:
        """By its own id, or that of its file; None: not asked for, or left out."""
        if any(part in item.nodeid for part in LEFT_OUT_TESTS):
            return None
        return self.place.get(item.nodeid, self.place.get(item.nodeid.split("::")[0]))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remembers a failure."""
        if report.failed and self.failed is None:
            self.failed = report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Remembers a file that could not be imported."""
        if report.failed and self.failed is None:
            self.failed = f"{report.nodeid} (import)"


def run_chosen(tree: Path, tests: Sequence[str], limit_s: float) -> dict[str, Any]:
    """Runs these tests until one fails.

    Args:
        tree: the copy of the checkout in which they run.
        tests: their pytest ids, in order.
        limit_s: after so many seconds on an idle machine they are ended; on a busy one after more.

    Returns:
        `outcome` ("passed", "failed", "timeout" or "broken": the run itself went wrong), `failed` (the first test that
        did) and `took_s`, `cpu_s`.
    """
    files = list(dict.fromkeys(test.split("::")[0] for test in tests))

    def run() -> dict[str, Any]:
        sys.dont_write_bytecode = True  # what is compiled of a changed file must not be found by the next run
        chosen = Chosen(tests)
        code = int(pytest.main([*PYTEST, *files], plugins=[chosen]))
        outcomes = {0: "passed", 1: "failed", 2: "failed", 4: "failed"}  # 2, 4: cannot even be imported
        return {"outcome": outcomes.get(code, "broken"), "failed": chosen.failed}

    return in_child(tree, run, limit_s * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)))


def in_child(tree: Path, work: Callable[[], dict[str, Any]], limit_s: float) -> dict[str, Any]:
    """What `work` returns in a child process whose roster is that of `tree`, with `took_s` and `cpu_s`, its seconds."""
    begun = time.monotonic()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _be_child(tree, work, writing)
    os.close(writing)
    told = _line(reading, begun + limit_s)
    os.close(reading)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    _, _, used = os.wait4(child, 0)
    broken = {"outcome": "broken" if told is not None else "timeout", "failed": None}
    took = {"took_s": round(time.monotonic() - begun, 2), "cpu_s": round(used.ru_utime + used.ru_stime, 2)}
    return (json.loads(told) if told else broken) | took


def _be_child(tree: Path, work: Callable[[], dict[str, Any]], writing: int) -> None:
    try:
        os.setsid()
        output = os.open(tree.parent / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(output, stream)
        os.chdir(tree)
        sys.path[:0] = [str(tree / "src"), str(tree)]
        os.environ["PYTHONPATH"] = str(tree / "src")
        os.write(writing, (json.dumps(work()) + "\n").encode())
    finally:
        os._exit(0)


def _line(reading: int, until: float) -> bytes | None:
    """The line that comes through the pipe; empty when the child ends without one; None when time is up."""
    found = b""
    while not found.endswith(b"\n"):
        ready, _, _ = select.select([reading], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            return None
        piece = os.read(reading, 1 << 20)
        if not piece:
            return b""
        found += piece
    return found


def copy_checkout(root: Path, tree: Path, names: Collection[str]) -> None:
    """Makes `tree` hold exactly these files of the checkout; unchanged ones keep what was compiled of them."""
    for name in names:
        here, there = root / name, tree / name
        if there.exists() and there.read_bytes() == here.read_bytes():
            continue
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_bytes(here.read_bytes())
    kept = {tree / name for name in names}
    for path in [*tree.rglob("*.py")]:
        if path not in kept:
            path.unlink()
