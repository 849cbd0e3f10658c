"""Train the adapters of the real ground again, with one command: ``roster smol make``, or ``make smol``.

A stage an adapter, then one for the base's own accuracy on each skill. A stage whose result is there is skipped unless
``force`` is given, so a stopped run carries on; a result is complete as soon as it has its final name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from roster.errors import RosterError, nearest
from roster.pocket.record import Record
from roster.smol.shapes import MULTITASK, SHAPES
from roster.smol.skills import TRAINED
from roster.smol.stages import (
    MULTITASK_NAME,
    WEIGHTS,
    everybodys,
    make_adapter,
    make_multitask,
    measure_base,
)

_PERCENT = 100
_SAID = 50
"""Steps between two lines where nothing shows bars."""


def make(base: Any, tokenizer: Any, out: Path, only: Sequence[str] = TRAINED, force: bool = False) -> None:
    """Train, measure and record the adapters asked for.

    Args:
        base: the model, in bfloat16 (half the time of float32 where the processor knows it).
        tokenizer: its tokenizer.
        out: the folder of adapters.
        only: skills.
        force: train again what is there.

    Raises:
        RosterError: an unknown skill.
    """
    for name in only:
        if name not in SHAPES:
            raise RosterError(f"no adapter is trained for {name!r}: {nearest(name, SHAPES)}")
    out.mkdir(parents=True, exist_ok=True)
    record = Record(out / "record.json")
    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        whole = progress.add_task("all", total=len(only))
        for name in only:
            if force or not (out / name / WEIGHTS).exists():
                bar = progress.add_task(name, total=SHAPES[name].steps)
                if not progress.console.is_terminal:
                    progress.console.print(f"{name}: {SHAPES[name].steps} steps ...", highlight=False)
                scores = make_adapter(base, tokenizer, name, out, record, _advancing(progress, bar))
                progress.remove_task(bar)
                told = ", ".join(f"{score * _PERCENT:.0f} %" for score in scores.values())
                progress.console.print(f"{name}: {told} (known, unseen wordings)", highlight=False)
            progress.advance(whole)
        bar = progress.add_task("the base", total=len(only))
        if not progress.console.is_terminal:
            progress.console.print("the base on every skill ...", highlight=False)
        for name in only:
            if force or name not in record.section("base"):
                measure_base(base, tokenizer, name, record)
            progress.advance(bar)


def make_reference(base: Any, tokenizer: Any, out: Path, folder: Path, force: bool = False) -> None:
    """Train, measure and record one adapter for all skills, unless it is there.

    Args:
        base, tokenizer: as for `make`.
        out: the folder of the other adapters, whose record is carried on.
        folder: where the adapter goes, away from the others: it is no expert of theirs.
        force: train it again.
    """
    if not force and (folder / MULTITASK_NAME / WEIGHTS).exists():
        return
    out.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn("{task.description:<14}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        steps = len(everybodys(TRAINED)) // MULTITASK.batch
        bar = progress.add_task(MULTITASK_NAME, total=steps)
        if not progress.console.is_terminal:
            progress.console.print(f"{MULTITASK_NAME}: {steps} steps ...", highlight=False)
        record = Record(out / "record.json")
        found = make_multitask(base, tokenizer, TRAINED, folder, record, _advancing(progress, bar))
        for name in ("known", "unseen"):
            mean = sum(each[name] for each in found.values()) / len(found)
            progress.console.print(f"{MULTITASK_NAME}, {name} wordings: {mean * _PERCENT:.0f} %", highlight=False)


def _advancing(progress: Progress, bar: TaskID) -> Callable[[float], None]:
    """What to call after every step of training."""

    def tick(loss: float) -> None:
        progress.advance(bar)
        task = progress.tasks[progress.task_ids.index(bar)]
        if not progress.console.is_terminal and task.completed % _SAID == 0:
            # A log file shows no bars: a line now and then instead.
            steps = f"{task.completed:.0f}/{task.total:.0f}"
            progress.console.print(f"{task.description} {steps} loss {loss:.3f}", highlight=False)

    return tick
