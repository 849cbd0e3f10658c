"""Writes docs/results/mutants.json and .md from what `python -m mutants` noted: the score at first and now, survivors.

python -m mutants.report
"""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mutants.__main__ import ROOT, WORK
from mutants.rooms import LEFT_OUT, LEFT_OUT_TESTS, ROOMS, SLOW
from mutants.sample import set_aside
from roster.files import write_whole

RESULTS = ROOT / "docs" / "results"
PLACE = ("file", "function", "before", "after")
PACKAGES = ("cosmic-ray", "coverage", "pytest", "torch", "transformers", "peft")


def noted(path: Path) -> dict[str, Any]:
    """The first and the last result of every change of a sample."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    aside = {tuple(each[part] for part in PLACE) for each in set_aside()}
    drawn = set(json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))  # sources may have changed since
    lines = [line for line in lines if line["key"] in drawn]
    lines = [line for line in lines if tuple(line[part] for part in PLACE) not in aside]
    first = {line["key"]: line for line in reversed(lines)}
    last = {line["key"]: line for line in lines}
    return {
        "rooms": {room: _counts(room, first, last) for room in ROOMS},
        "all": _counts(None, first, last),
        "timeouts": sum(each["outcome"] == "timeout" for each in last.values()),
        "survivors": [_row(each) for each in last.values() if each["outcome"] == "survived"],
        "survived at first": [_row(each) for each in first.values() if each["outcome"] == "survived"],
    }


def _counts(room: str | None, first: dict[str, Any], last: dict[str, Any]) -> dict[str, int]:
    def caught(results: dict[str, Any]) -> int:
        return sum(each["outcome"] != "survived" for each in results.values() if room in (None, each["room"]))

    tried = sum(room in (None, each["room"]) for each in last.values())
    return {"tried": tried, "caught_at_first": caught(first), "caught": caught(last)}


def _row(result: dict[str, Any]) -> dict[str, Any]:
    return {name: result[name] for name in ("room", "file", "line", "before", "after", "tests")}


def page(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    with_what = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    parts = [
        "# Small changes to core code, and whether the tests notice",
        f"{report['machine']}, {with_what}; {report['date']}.",
        "`make mutants` draws the changes by hash and carries on where it stopped. A change is caught when a test "
        "that runs its line fails, or takes ten times as long as before. At first: before tests were written for "
        "survivors. Now: the same changes, with those tests.",
    ]
    for seed, sample in report["samples"].items():
        parts += [f"## Sample {seed}", _table(sample), _said(sample), "### Survivors", _survivors(sample["survivors"])]
    parts += ["## Left out", *_left_out(report)]
    return "\n\n".join(parts) + "\n"


def _table(sample: dict[str, Any]) -> str:
    rows = ["| room | tried | caught at first | caught now |", "|---|---|---|---|"]
    for name, counts in [*sample["rooms"].items(), ("**all**", sample["all"])]:
        rows.append(f"| {name} | {counts['tried']} | {counts['caught_at_first']} | {counts['caught']} |")
    return "\n".join(rows)


def _said(sample: dict[str, Any]) -> str:
    counts = sample["all"]
    first, now = (100 * counts[name] / max(counts["tried"], 1) for name in ("caught_at_first", "caught"))
    return f"{now:.1f} % are caught; {first:.1f} % were at first. {sample['timeouts']} of them by running out of time."


def _survivors(survivors: Iterable[dict[str, Any]]) -> str:
    rows = [f"- `{each['file']}:{each['line']}`: `{each['before']}` into `{each['after']}`" for each in survivors]
    return "\n".join(sorted(rows)) or "None."


def _left_out(report: dict[str, Any]) -> list[str]:
    aside = [
        f"- `{each['file']}`: `{each['before']}` into `{each['after']}`: {each['reason']}"
        for each in report["set_aside"]
    ]
    tests = [f"- `{name}`: {why}" for name, why in (LEFT_OUT | LEFT_OUT_TESTS).items()]
    return [
        "Changes that change nothing that could be observed, which is why they are not counted:",
        "\n".join(aside) or "None.",
        "Tests that are run only for a change which the others did not notice (`python -m mutants --slow`):",
        "\n".join(f"- {rooms}: {names}" for rooms, names in SLOW.items()),
        "Tests that are not run for a change, as they are slower still or see nothing of these rooms:",
        "\n".join(tests),
    ]


def main() -> None:
    """Reads every sample that was tried and writes both files."""
    before = RESULTS / "mutants.json"
    samples = json.loads(before.read_text(encoding="utf-8"))["samples"] if before.exists() else {}
    samples |= {path.stem.removeprefix("seed-"): noted(path) for path in sorted(WORK.glob("seed-*.jsonl"))}
    report = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "versions": {name: version(name) for name in PACKAGES},
        "samples": samples,
        "set_aside": set_aside(),
    }
    write_whole(RESULTS / "mutants.json", (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode())
    write_whole(RESULTS / "mutants.md", page(report).encode())


if __name__ == "__main__":
    main()
