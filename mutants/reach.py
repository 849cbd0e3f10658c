"""Which tests run which line, and how long each takes: measured with coverage.py, a test file at a time.

What a test file's measurement says is kept until that file, a helper beside it or a source that it reached changes.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import coverage
import pytest

from mutants.forked import PYTEST, in_child
from mutants.rooms import LEFT_OUT_TESTS, PACKAGE

SHARED = "@shared"  # fixtures that several tests of a file use
IMPORT = "@import"
LIMIT_S = 7200


class Measuring:
    """A pytest plugin: says to coverage.py which test runs now, and notes how long each took and whether it passed."""

    def __init__(self, measured: coverage.Coverage) -> None:
        self.measured = measured
        self.seconds: dict[str, float] = defaultdict(float)
        self.skipped: set[str] = set()
        self.failed: set[str] = set()
        self.now = IMPORT

    def _turn_to(self, context: str) -> None:
        self.now = context
        self.measured.switch_context(context)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Drops the tests that are left out."""
        items[:] = [each for each in items if not any(part in each.nodeid for part in LEFT_OUT_TESTS)]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """What runs now belongs to this test."""
        self._turn_to(item.nodeid)
        begun = time.perf_counter()
        result = yield
        self.seconds[item.nodeid] += time.perf_counter() - begun
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[None]:
        """What a shared fixture runs belongs to all tests of the file."""
        before = self.now
        if fixturedef.scope != "function":
            self._turn_to(SHARED)
        result = yield
        self._turn_to(before)
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Notes tests that fail or are skipped."""
        if report.failed:
            self.failed.add(report.nodeid)
        if report.skipped:
            self.skipped.add(report.nodeid)


def measure(tree: Path, test_file: str) -> dict[str, Any]:
    """What one test file reaches.

    Returns:
        `seconds` of every test that passes, `lines` ({source: {line: [tests or "@shared"]}}), `failed` and `seen` (the
        files that this holds for, with their hashes).
    """

    def run() -> dict[str, Any]:
        measured = coverage.Coverage(data_file=None, config_file=False, include=[f"{tree / PACKAGE}/*"])
        measured.start()
        plugin = Measuring(measured)
        measured.switch_context(IMPORT)
        options = [each for each in PYTEST if each != "-x"]
        code = int(pytest.main([*options, test_file], plugins=[plugin]))
        measured.stop()
        if code not in (0, 1, 5):
            return {"outcome": "broken", "code": code}
        lines = {str(Path(path).relative_to(tree)): by_line for path, by_line in _by_line(measured)}
        unused = plugin.failed | plugin.skipped
        seconds = {test: round(took, 3) for test, took in plugin.seconds.items() if test not in unused}
        return {"outcome": "measured", "seconds": seconds, "lines": lines, "failed": sorted(plugin.failed)}

    found = in_child(tree, run, LIMIT_S)
    if found["outcome"] != "measured":
        raise SystemExit(f"{test_file} cannot be measured ({found['outcome']}): see {tree.parent / 'output.txt'}")
    found["seen"] = {name: _hash(tree / name) for name in [*found["lines"], *_beside(tree, test_file)]}
    return found


def measured_or_kept(tree: Path, test_file: str, kept: Path) -> tuple[dict[str, Any], bool]:
    """The measurement, and whether it had to be made now; `kept` is the folder of those made before."""
    place = kept / f"{test_file.replace('/', '__')}.json"
    if place.exists():
        found = json.loads(place.read_text(encoding="utf-8"))
        if all((tree / name).exists() and _hash(tree / name) == known for name, known in found["seen"].items()):
            return found, False
    found = measure(tree, test_file)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(found), encoding="utf-8")
    return found, True


class Reach:
    """What all the test files reach together."""

    def __init__(self, measurements: list[dict[str, Any]]) -> None:
        self.seconds: dict[str, float] = {}
        self.by_line: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        self.beside: dict[str, set[str]] = defaultdict(set)
        for each in measurements:
            self.seconds |= each["seconds"]
            for source, by_line in each["lines"].items():
                self.beside[source] |= each["seconds"].keys()
                for line, contexts in by_line.items():
                    tests = each["seconds"] if SHARED in contexts else contexts
                    self.by_line[source][int(line)] |= set(tests) & set(each["seconds"])

    def tests(self, source: str, lines: range | None) -> list[str]:
        """The tests that run one of these lines, fastest first.

        None: what an import runs, any test may notice: first come those that run any line of the file, then the others
        beside them (some start a process of their own, where nothing is measured).
        """
        by_line = self.by_line.get(source, {})
        found = set().union(*(by_line.get(line, set()) for line in (by_line if lines is None else lines)))
        beside = self.beside.get(source, set()) - found if lines is None else set()
        return [test for part in (found, beside) for test in sorted(part, key=lambda each: (self.seconds[each], each))]


def _by_line(measured: coverage.Coverage) -> Iterator[tuple[str, dict[int, list[str]]]]:
    data = measured.get_data()
    for path in data.measured_files():
        by_line = data.contexts_by_lineno(path)
        reached = {line: [each for each in contexts if each not in ("", IMPORT)] for line, contexts in by_line.items()}
        yield path, {line: contexts for line, contexts in reached.items() if contexts}


def _beside(tree: Path, test_file: str) -> list[str]:
    """The test file and the helpers that it may import."""
    folders = {(tree / test_file).parent, tree / "tests"}
    helpers = [path for folder in folders for path in folder.glob("*.py") if not path.name.startswith("test_")]
    return sorted(str(path.relative_to(tree)) for path in [tree / test_file, *helpers])


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
