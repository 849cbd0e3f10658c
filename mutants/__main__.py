"""`make mutants`: tries a sample of small changes to core code and notes which of them the tests notice.

python -m mutants                       # the sample whose score is committed; carries on where it stopped
python -m mutants --seed 2 --count 60   # another sample

Everything happens in a copy of the checkout under build/mutants, in one process. A change that was noticed is not tried
again; one that survived is, once there are other tests for its line. Not here: the page (`python -m mutants.report`).
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mutants.changes import Change, lines_to_run
from mutants.forked import copy_checkout, run_chosen, warm_up
from mutants.reach import Reach, measured_or_kept
from mutants.rooms import ROOMS, test_files
from mutants.sample import draw, is_set_aside

ROOT = Path(__file__).parents[1]
WORK = ROOT / "build" / "mutants"
TREE = WORK / "tree"
FIRST_S = 4.0  # the fastest tests of a line come first, this many seconds of them, since most changes fall there
ENOUGH_S = 60.0  # tests beyond so many seconds are not run for one change


@dataclass(frozen=True)
class Suite:
    """The tests that run a changed line, fastest first, and a hash of what they are."""

    tests: list[str]
    seconds: list[float]
    hash: str

    @classmethod
    def of(cls, reach: Reach, change: Change, source: str) -> Suite:
        """The tests for a change of the file whose text is `source`."""
        tests = reach.tests(change.path, lines_to_run(source, change.line))
        total, kept = 0.0, []
        for test in tests:
            total += reach.seconds[test]
            if total < ENOUGH_S:
                kept.append(test)
        files = sorted({test.split("::")[0] for test in kept})
        parts = [*sorted(kept), *(hashlib.sha256((TREE / name).read_bytes()).hexdigest() for name in files)]
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


def tried(change: Change, room: str, suite: Suite) -> dict[str, Any]:
    """Makes the change in the copy, runs the tests, takes it back; what happened, as it is written down."""
    path = TREE / change.path
    source, at = path.read_text(encoding="utf-8"), path.stat()
    changed = change.apply(source)
    result: dict[str, Any] = {"outcome": "passed", "failed": None, "took_s": 0.0}
    try:
        path.write_text(changed, encoding="utf-8")
        for stage in suite.stages():
            limit_s = 120 + 10 * sum(stage.seconds)
            took_s = result["took_s"]
            result = run_chosen(TREE, stage.tests, limit_s)
            result["took_s"] = round(result["took_s"] + took_s, 2)
            if result["outcome"] != "passed":
                break
    finally:
        path.write_text(source, encoding="utf-8")
        os.utime(path, ns=(at.st_atime_ns, at.st_mtime_ns))  # so that what was compiled of it counts again
    if result["outcome"] == "broken":
        raise SystemExit(f"the tests broke off at {change.path}:{change.line}; see {WORK / 'output.txt'}")
    before, after = _lines(source, changed)
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


def _lines(source: str, changed: str) -> tuple[str, str]:
    """The first line that differs, before and after."""
    pairs = zip(source.splitlines(), changed.splitlines(), strict=False)
    before, after = next((pair for pair in pairs if pair[0] != pair[1]), ("", ""))
    return before.strip(), after.strip()


def _reach() -> Reach:
    measurements = []
    names = test_files(TREE)
    for at, name in enumerate(names, 1):
        found, new = measured_or_kept(TREE, name, WORK / "reach")
        measurements.append(found)
        if new:
            print(
                f"measured {at}/{len(names)} {name}: {len(found['seconds'])} tests, {found['took_s']:.0f} s", flush=True
            )
        if found["failed"]:
            print(f"  not used, as they fail as it is: {' '.join(found['failed'])}", flush=True)
    return Reach(measurements)


def _control(reach: Reach, noted: list[dict[str, Any]]) -> None:
    """Every test that noticed a change must pass without one, in the same way of running it."""
    by = sorted({each["by"] for each in noted if each["by"] in reach.seconds}, key=lambda test: test.split("::")[0])
    result = run_chosen(TREE, by, 300 + 10 * sum(reach.seconds[test] for test in by))
    print(f"control: the {len(by)} tests that noticed something, on the code as it is: {result['outcome']}", flush=True)
    if result["outcome"] != "passed":
        raise SystemExit(f"{result['failed']} fails without any change: mend it and remove its lines from {WORK}")


def main() -> None:
    """Draws, measures, tries."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=160, help="how many changes (160)")
    parser.add_argument("--seed", type=int, default=1, help="another seed, another sample (1)")
    asked = parser.parse_args()
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    copy_checkout(ROOT, TREE, [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()])
    if (ROOT.parent / "shared" / "data").is_dir():
        os.environ.setdefault("ROSTER_DATA", str(ROOT.parent / "shared" / "data"))
    warm_up()
    gc.freeze()
    reach = _reach()
    place = WORK / f"seed-{asked.seed}.jsonl"
    noted = {each["key"]: each for each in map(json.loads, place.read_text().splitlines())} if place.exists() else {}
    sample = draw(TREE, asked.count, asked.seed)
    print(f"{len(sample)} changes in {len(ROOMS)} rooms, seed {asked.seed}; {len(noted)} tried before", flush=True)
    for at, (room, change) in enumerate(sample, 1):
        suite = Suite.of(reach, change, (TREE / change.path).read_text(encoding="utf-8"))
        before = noted.get(change.key)
        if is_set_aside(change) or (before and (before["outcome"] != "survived" or before["suite"] == suite.hash)):
            continue
        result = tried(change, room, suite)
        noted[change.key] = result
        with place.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
        said = f"{result['before']}  ->  {result['after']}" if result["outcome"] == "survived" else result["by"]
        print(
            f"{at}/{len(sample)} {change.path}:{change.line} {result['outcome']}, {result['took_s']:.0f} s: {said}",
            flush=True,
        )
    _control(reach, list(noted.values()))


if __name__ == "__main__":
    main()
