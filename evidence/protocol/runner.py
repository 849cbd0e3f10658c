"""Runs what the declarations ask for and the records lack, on whatever workers.

Covers nothing of what the runs mean; see `verdict`.
"""

from __future__ import annotations

import datetime
import hashlib
import inspect
import os
import platform
import sys
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

from evidence.protocol.check import Check, Draw
from evidence.protocol.declaration import require_committed, require_same
from evidence.protocol.record import Line, Record
from roster.errors import RosterError
from roster.workers import Workers, one_thread

Task = tuple[str, str, Draw]
"""Name of the check, contender, draw."""


def measure(find: Callable[[str], Check], task: Task) -> Line:
    """One run, in whatever process."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    name, contender, draw = task
    check = find(name)
    start = time.process_time()
    with one_thread():
        value = float(check.contenders[contender](draw))
    return Line(
        contender=contender,
        ground=draw.ground,
        luck=draw.luck,
        value=value if value == value and abs(value) != float("inf") else None,
        seconds=round(time.process_time() - start, 2),
        date=datetime.date.today().isoformat(),
        made_by=made_by(),
        code=code_digest(),
        declaration=check.declaration.digest(),
        clock="processor",
    )


def run_all(
    names: Sequence[str],
    find: Callable[[str], Check],
    folder: Path,
    workers: Workers = Workers(),
    report: Callable[[str], None] = print,
) -> None:
    """Runs whatever is missing; every run is on disk as soon as it ends.

    Checks that share a contender (the same function) share its runs: what one of `names` has measured at a draw is
    written down for the others as it is, with its date and versions.

    Args:
        names: of checks.
        find: a check by name; importable, for other processes call it too.
        folder: with `declarations` and `records`.
        workers: where runs are made.
        report: is told of every run.

    Raises:
        RosterError: a check is not declared, is another than was declared, or is not committed; before any run.
    """
    records: dict[str, Record] = {}
    checks = {name: find(name) for name in names}
    for name, check in checks.items():
        require_same(check.declaration, folder / "declarations")
        require_committed(check.declaration.file(folder / "declarations"))
        records[name] = Record(folder / "records", check.declaration)

    def run_of(task: Task) -> Hashable:
        """What is run, whoever asks for it: a function at a draw."""
        name, contender, draw = task
        return checks[name].contenders[contender], draw

    found: dict[Hashable, Line] = {}
    waiting: dict[Hashable, list[Task]] = {}
    for name, check in checks.items():
        for contender, draw in check.draws():
            task, line = (name, contender, draw), records[name].lines.get((contender, draw.ground, draw.luck))
            if line is None:
                waiting.setdefault(run_of(task), []).append(task)
            else:
                found[run_of(task)] = line
    for run in waiting.keys() & found.keys():
        _write_down(found[run], waiting.pop(run), records)
    tasks = [together[0] for together in waiting.values()]
    start = time.monotonic()
    for done, (place, line) in enumerate(workers.map(partial(measure, find), tasks), 1):
        task = tasks[place]
        _write_down(line, waiting[run_of(task)], records)
        left = (time.monotonic() - start) / done * (len(tasks) - done)
        report(
            f"{done}/{len(tasks)}, {left / 60:.0f} min left: {task[0]}, {line.contender}, seed {line.ground}: "
            f"{line.value} ({line.seconds:.1f} s)"
        )


def _write_down(line: Line, tasks: Sequence[Task], records: Mapping[str, Record]) -> None:
    for name, contender, _ in tasks:
        digest = records[name].declaration.digest()
        records[name].add(replace(line, contender=contender, declaration=digest))


def try_all(
    names: Sequence[str], find: Callable[[str], Check], report: Callable[[str], None] = print
) -> dict[str, float | int | str]:
    """Every contender of every check once, in a short run of which nothing is kept: that it runs at all.

    Returns:
        Processor seconds, how many checks, date, machine and versions.
    """
    began = time.process_time()
    for name in names:
        start = time.monotonic()
        for contender in find(name).contenders:
            line = measure(find, (name, contender, Draw(0, 0, short=True)))
            if line.value is None:
                raise RosterError(f"check {name!r}: contender {contender!r} gives no number")
        report(f"{name}: runs, {time.monotonic() - start:.1f} s")
    took = round(time.process_time() - began, 1)
    return {"processor": took, "checks": len(names), "date": datetime.date.today().isoformat(), "made_by": made_by()}


def made_by() -> str:
    """Machine and versions."""
    versions: Mapping[str, str] = {name: version(name) for name in ("torch", "transformers", "numpy")}
    return f"{platform.machine()}, {os.cpu_count()} cores, 1 thread; Python {platform.python_version()}, " + ", ".join(
        f"{name} {number}" for name, number in versions.items()
    )


def code_digest() -> str:
    """Of the source of all checks and grounds that are loaded here."""
    rooms = ("evidence.checks.", "evidence.grounds.")
    names = sorted(name for name in sys.modules if name.startswith(rooms))
    source = "".join(inspect.getsource(sys.modules[name]) for name in names)
    return hashlib.sha256(source.encode()).hexdigest()[:12]
