"""`make mutants`: tries a sample of small changes to core code and notes which of them the tests notice.

python -m mutants                       # the sample whose score is committed; carries on where it stopped
python -m mutants --seed 2 --count 60   # another sample
python -m mutants --slow                # what survived is held against slow tests, too

Everything happens in copies of the checkout under build/mutants, one for each of `--jobs` processes. A change that was
noticed is not tried again; one that survived is, once there are other tests for its line. Not here: the page
(`python -m mutants.report`).
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import subprocess
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mutants.changes import Change, lines_to_run
from mutants.forked import copy_checkout, run_chosen, warm_up
from mutants.named import files_naming
from mutants.reach import Reach, measured_or_kept
from mutants.rooms import ROOMS, TIMED, slow_files, test_files
from mutants.sample import draw, is_set_aside, lines_of

ROOT = Path(__file__).parents[1]
WORK = ROOT / "build" / "mutants"
FIRST_S = 4.0  # the fastest tests of a line come first, this many seconds of them, since most changes fall there
ENOUGH_S = 60.0  # tests beyond so many seconds are not run for one change
SLOW_S = 60.0  # taken for a slow file's, which nobody measured


@dataclass(frozen=True)
class Suite:
    """The tests that run a changed line, fastest first, and a hash of what they are."""

    tests: list[str]
    seconds: list[float]
    hash: str

    @classmethod
    def of(cls, reach: Reach, change: Change, tree: Path) -> Suite:
        """The tests for a change in a copy of the checkout."""
        tests = reach.tests(change.path, lines_to_run(_text(tree, change), change.line))
        total, kept = 0.0, []
        for test in tests:
            total += reach.seconds[test]
            if total < ENOUGH_S:
                kept.append(test)
        files = sorted({test.split("::")[0] for test in kept})
        parts = [*sorted(kept), *(hashlib.sha256((tree / name).read_bytes()).hexdigest() for name in files)]
        return cls(
            kept, [reach.seconds[test] for test in kept], hashlib.sha256("".join(parts).encode()).hexdigest()[:16]
        )

    def stages(self) -> list[Suite]:
        """First a few, then the others."""
        first = 0
        while first < len(self.tests) and sum(self.seconds[: first + 1]) <= FIRST_S:
            first += 1
        parts = [slice(0, first), slice(first, None)]
        return [replace(self, tests=self.tests[part], seconds=self.seconds[part]) for part in parts if self.tests[part]]


def tried(change: Change, room: str, suite: Suite, tree: Path) -> dict[str, Any]:
    """Makes the change in a copy, runs the tests, takes it back; what happened, as it is written down."""
    path = tree / change.path
    source, at = path.read_text(encoding="utf-8"), path.stat()
    changed = change.apply(source)
    result: dict[str, Any] = {"outcome": "passed", "failed": None, "took_s": 0.0}
    try:
        path.write_text(changed, encoding="utf-8")
        for stage in suite.stages():
            before = result
            result = run_chosen(tree, stage.tests, 30 + 10 * sum(stage.seconds))
            if (result["failed"] or "").startswith(TIMED) and "::" in result["failed"]:
                again = run_chosen(tree, [result["failed"]], 60)
                result |= {"outcome": again["outcome"], "took_s": result["took_s"] + again["took_s"]}
            result["took_s"] = round(result["took_s"] + before["took_s"], 2)
            if result["outcome"] != "passed":
                break
    finally:
        path.write_text(source, encoding="utf-8")
        os.utime(path, ns=(at.st_atime_ns, at.st_mtime_ns))  # so that what was compiled of it counts again
    if result["outcome"] == "broken":
        raise SystemExit(f"the tests broke off at {change.path}:{change.line}; see {tree.parent / 'output.txt'}")
    before, after = lines_of(source, changed)
    return {
        "key": change.key,
        "room": room,
        "file": change.path,
        "line": change.line,
        "function": change.function,
        "family": change.family,
        "before": before,
        "after": after,
        "outcome": {"passed": "survived", "failed": "caught", "timeout": "timeout"}[result["outcome"]],
        "by": result["failed"],
        "tests": len(suite.tests),
        "suite": suite.hash,
        "took_s": result["took_s"],
    }


def _text(tree: Path, change: Change) -> str:
    return (tree / change.path).read_text(encoding="utf-8")


def _measured(tree: Path, name: str) -> dict[str, Any]:
    found, new = measured_or_kept(tree, name, WORK / "reach")
    if new:
        print(f"measured {name}: {len(found['seconds'])} tests, {found['took_s']:.0f} s", flush=True)
    if found["failed"]:
        print(f"  not used, as they fail as it is: {' '.join(found['failed'])}", flush=True)
    return found


def _measure_some(names: Sequence[str], tree: Path) -> None:
    for name in names:
        _measured(tree, name)


def _control(noted: list[dict[str, Any]], tree: Path) -> None:
    """Every test that noticed a change must pass without one, in the same way of running it."""
    by = sorted({each["by"] for each in noted if "::" in (each["by"] or "")}, key=lambda test: test.split("::")[0])
    result = run_chosen(tree, by, 300 + SLOW_S * len(by))
    print(f"control: the {len(by)} tests that noticed something, on the code as it is: {result['outcome']}", flush=True)
    if result["outcome"] != "passed":
        raise SystemExit(f"{result['failed']} fails without any change: mend it and remove its lines from {WORK}")


def _noted(place: Path) -> dict[str, dict[str, Any]]:
    return {each["key"]: each for each in map(json.loads, place.read_text().splitlines())} if place.exists() else {}


def _try_some(sample: Sequence[tuple[str, Change]], reach: Reach, tree: Path, place: Path) -> None:
    before = _noted(place)
    for room, change in sample:
        suite, known = Suite.of(reach, change, tree), before.get(change.key)
        settled = known is not None and (known["outcome"] != "survived" or known["suite"] == suite.hash)
        if settled or is_set_aside(change, _text(tree, change)):
            continue
        result = tried(change, room, suite, tree)
        _note(place, result)
        said = f"{result['before']}  ->  {result['after']}" if result["outcome"] == "survived" else result["by"]
        happened = f"{result['outcome']}, {result['took_s']:.0f} s"
        print(f"{len(_noted(place))} tried; {change.path}:{change.line} {happened}: {said}", flush=True)


def _try_quickly(sample: Sequence[tuple[str, Change]], tree: Path, place: Path) -> None:
    """The tests that speak of the changed file; only what they notice is noted, the rest is left to a full run."""
    for room, change in sample:
        if is_set_aside(change, _text(tree, change)) or change.key in _noted(place):
            continue
        files = files_naming(tree, change.path, room)
        result = tried(change, room, Suite(files, [0.0] * len(files), "by name"), tree)
        print(f"{change.path}:{change.line} {result['outcome']}, {result['took_s']:.0f} s: {result['by']}", flush=True)
        if result["outcome"] == "caught":
            _note(place, result)


def _try_slowly(sample: Sequence[tuple[str, Change]], tree: Path, place: Path) -> None:
    """What survived, and the test files that speak of its file, whole, then the slow ones of its room."""
    for room, change in sample:
        known = _noted(place).get(change.key)
        files = list(dict.fromkeys([*files_naming(tree, change.path, room), *slow_files(tree, room)]))
        if known is None or known["outcome"] != "survived" or is_set_aside(change, _text(tree, change)):
            continue
        result = tried(change, room, Suite(files, [SLOW_S] * len(files), "slow"), tree)
        print(f"{change.path}:{change.line} {result['outcome']}, {result['took_s']:.0f} s: {result['by']}", flush=True)
        if result["outcome"] != "survived":
            _note(place, result)


def _note(place: Path, result: dict[str, Any]) -> None:
    with place.open("a", encoding="utf-8") as file:
        file.write(json.dumps(result) + "\n")


def _in_jobs(trees: Sequence[Path], work: Callable[[int, Path], None]) -> None:
    """Does the work in one process per copy, and waits for all."""
    children = []
    for index, tree in enumerate(trees):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                work(index, tree)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(child)
    if any([os.waitpid(child, 0)[1] for child in children]):
        raise SystemExit("one of the processes stopped, as said above")


def main() -> None:
    """Draws, measures, tries."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=160, help="how many changes (160)")
    parser.add_argument("--seed", type=int, default=1, help="another seed, another sample (1)")
    parser.add_argument("--jobs", type=int, default=1, help="so many processes (1)")
    parser.add_argument("--quick", action="store_true", help="only the test files that name what is changed")
    parser.add_argument("--slow", action="store_true", help="what survived, and slow tests")
    asked = parser.parse_args()
    trees = [WORK / f"job-{index}" / "tree" for index in range(asked.jobs)]
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    for tree in trees:
        copy_checkout(ROOT, tree, [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()])
    if (ROOT.parent / "shared" / "data").is_dir():
        os.environ.setdefault("ROSTER_DATA", str(ROOT.parent / "shared" / "data"))
    warm_up()
    gc.freeze()
    place = WORK / f"seed-{asked.seed}.jsonl"
    sample = draw(trees[0], asked.count, asked.seed)
    (WORK / f"seed-{asked.seed}.json").write_text(json.dumps([change.key for _, change in sample]), encoding="utf-8")
    if asked.quick:
        _in_jobs(trees, lambda index, tree: _try_quickly(sample[index :: asked.jobs], tree, place))
        return
    if asked.slow:
        _in_jobs(trees, lambda index, tree: _try_slowly(sample[index :: asked.jobs], tree, place))
        _control(list(_noted(place).values()), trees[0])
        return
    names = test_files(trees[0])
    _in_jobs(trees, lambda index, tree: _measure_some(names[index :: asked.jobs], tree))
    reach = Reach([_measured(trees[0], name) for name in names])
    known = len(_noted(place))
    print(f"{len(sample)} changes in {len(ROOMS)} rooms, seed {asked.seed}; {known} tried before", flush=True)
    _in_jobs(trees, lambda index, tree: _try_some(sample[index :: asked.jobs], reach, tree, place))
    _control(list(_noted(place).values()), trees[0])


if __name__ == "__main__":
    main()
