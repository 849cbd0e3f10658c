"""Many recipes, seeds and library sizes on one ground: every run has its own record, so that what was killed goes on.

A run is one way of `ways.py` at one seed and one size. Runs are independent, so processes share them out. What is made
of the records is in `standings.py`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from roster.adapters.attach import attach
from roster.arena.compare import KEPT, Comparison, Measured, Terms, check_rows, kept
from roster.arena.grounds import Ground
from roster.arena.lessons import Lessons
from roster.arena.ways import Way, ways_of
from roster.errors import RosterError
from roster.library import Library
from roster.prompts import Rendering
from roster.recipes import find
from roster.routed.base import load_base, load_tokenizer
from roster.train.data import Row
from roster.workers import Workers

ALONE = "experts alone"
"""The run that has every expert answer every task."""


@dataclass(frozen=True)
class Run:
    """One way at one seed.

    Attributes:
        ground: with what is asked at this seed and others.
        size: adapters in the folder; None for the folder as it is.
        seed: of prompts, of trainings and of what a recipe draws.
        way: its name in `ways_of`, or `ALONE`.
        recipes: all that take part; the names of ways come from them.
        terms: alike for all.
        out: the folder of records.
        dtype: of the base; None as it is stored.
    """

    ground: Ground
    size: int | None
    seed: int
    way: str
    recipes: tuple[str, ...]
    terms: Terms
    out: Path
    dtype: str | None = None

    @property
    def label(self) -> str:
        """For a line of progress."""
        size = "" if self.size is None else f"{self.size} adapters, "
        return f"{size}seed {self.seed}, {self.way}"

    @property
    def folder(self) -> Path:
        """Where its record lies, beside those of the same prompts."""
        return self.out / KEPT / f"{self.size or 'all'}-{self.seed}"


@dataclass(frozen=True)
class Ended:
    """A run and what came of it.

    Attributes:
        measured: None where it could not be done.
        why: not; an error's text.
        seconds: that it took just now; nothing where its record was there.
    """

    run: Run
    measured: Measured | None
    why: str = ""
    seconds: float = 0.0


def play(runs: Sequence[Run], workers: Workers, console: Console) -> list[Ended]:
    """Does every run that has no record yet.

    Args:
        runs: independent of one another.
        workers: where they run.
        console: told of each run that ends.

    Returns:
        In the order of the runs; one that cannot be done says why, and the others go on.

    Raises:
        RosterError: a prompt that the base cannot take, before any run.
    """
    for one in {(run.size, run.seed): run for run in runs}.values():
        check_rows(comparison_of(one))
    found: dict[int, Ended] = {}
    for at, ended in workers.map(run_one, runs):
        found[at] = ended
        what = f"cannot: {ended.why}" if ended.measured is None else f"{ended.seconds:.0f} s"
        line = f"[{len(found)}/{len(runs)}] {ended.run.label}: {what}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return [found[at] for at in range(len(runs))]


def run_one(run: Run) -> Ended:
    """One run: from its record, or done now."""
    started = time.monotonic()
    try:
        comparison = comparison_of(run)
        torch.manual_seed(run.seed)
        measured = kept(comparison, _way(run, comparison), run.folder)
    except RosterError as error:
        return Ended(run, None, str(error))
    except Exception as error:  # one recipe's fault does not end a night of the others, and is told like any other
        return Ended(run, None, f"{type(error).__name__}: {error}")
    return Ended(run, measured, seconds=time.monotonic() - started)


def ways(run: Run) -> list[Way]:
    """Every way that takes part where a run does, the base first."""
    return ways_of(_library(run.ground.experts), run.ground.rows[run.seed], run.recipes, [], bool(run.ground.lessons))


def matrix_rows(ground: Ground, seed: int) -> list[Row]:
    """One prompt for every task, from the first group in which the task names the right expert."""
    rows = [row for row in ground.rows[seed] if (row.group or "all") == ground.own[0] and row.task is not None]
    return list({row.task: row for row in reversed(rows)}.values())[::-1]


def _way(run: Run, comparison: Comparison) -> Way:
    if run.way == ALONE:
        comparison.terms = replace(comparison.terms, timed=False, traced=False)
        asked, names = matrix_rows(run.ground, run.seed), comparison.library.names
        # Every prompt once for every expert, whose name stands where the task does.
        comparison.rows = [row.model_copy(update={"task": name}) for name in names for row in asked]
        named = find("named")
        return Way(ALONE, ALONE, "bound", "", lambda c: attach(c.base, c.library, named(), recipe="named"), True)
    return next(each for each in ways(run) if each.name == run.way)


def comparison_of(run: Run) -> Comparison:
    """The ground of a run, its base loaded; one prompt for each group and task is looked at."""
    ground = run.ground
    base, rendering = _base(ground.base, run.dtype)
    lessons = None
    if ground.lessons:
        settings = replace(ground.settings, seed=run.seed)
        lessons = Lessons(ground.lessons, settings, run.folder.with_name(f"{run.folder.name}.training"))
    rows = ground.rows[run.seed]
    library = _library(ground.experts)
    tasks = {each.card.task for each in library.values()}
    of_experts = [row for row in rows if (row.group or "all") in ground.own and row.task in tasks]
    looked_at = list({(row.group, row.task): row for row in of_experts}.values())
    quiet = Progress(disable=True, console=Console(quiet=True, force_terminal=True))
    return Comparison(base, library, rendering, rows, run.terms, quiet, lessons=lessons, looked_at=looked_at)


@cache
def _library(folder: Path) -> Library:
    return Library.read(folder)


@cache
def _base(base: str, dtype: str | None) -> tuple[Any, Rendering]:
    """Loaded once for all runs of a process; every run leaves it plain."""
    tokenizer = load_tokenizer(base)
    if tokenizer is None:
        raise RosterError(f"there is no tokenizer beside {base!r}")
    model, _ = load_base(base, **({} if dtype is None else {"dtype": dtype}))
    return model, Rendering(tokenizer)
