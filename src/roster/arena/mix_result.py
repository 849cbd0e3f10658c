"""`roster arena mix`: from a ground and names of recipes to one result, which a page shows."""

from __future__ import annotations

import datetime
import os
import platform
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from roster.arena.compare import Comparison, Terms, groups_of, judged
from roster.arena.grounds import Ground
from roster.arena.standings import Entry, confusion, per_task, standings, to_its_own
from roster.arena.tournament import ALONE, Ended, Run, comparison_of, matrix_rows, play, ways
from roster.errors import RosterError
from roster.recipes import RECIPES
from roster.workers import Workers

MATRIX_UP_TO = 40
"""Adapters up to which every one of them answers every task alone."""
LARGE = 256


def every_recipe() -> list[str]:
    """Every recipe that routes among adapters of a causal model, beside the yardsticks that are always there."""
    always = ("uniform", "named", "oracle")
    return [name for name, each in RECIPES.items() if each.kind == "mixture" and each.causal and name not in always]


def compare_all(
    ground: Ground,
    recipes: Sequence[str],
    seeds: Sequence[int],
    sizes: Sequence[int],
    terms: Terms,
    out: Path,
    workers: Workers,
    console: Console,
    dtype: str | None = None,
    matrix: bool = True,
) -> dict[str, Any]:
    """Runs what has no record yet, and says what came of all of it.

    Args:
        ground: base, adapters and prompts.
        recipes: names, with options as in `lora-tle:embed=hidden`.
        seeds: of prompts and trainings.
        sizes: numbers of adapters to try beside the folder as it is.
        terms: alike for all.
        out: folder of the records; libraries of other sizes are written there too.
        workers: where runs are done.
        console: where progress goes.
        dtype: of the base.
        matrix: whether every expert answers every task alone, in folders of up to `MATRIX_UP_TO`.

    Raises:
        RosterError: an unknown recipe or option, or a prompt that the base cannot take, before anything is run.
    """
    started = time.monotonic()
    folders: dict[int | None, Ground] = {
        None: ground,
        **{size: ground.of_size(size, out / "libraries" / str(size)) for size in sizes},
    }
    runs = []
    for size, each in folders.items():
        first = Run(each, size, seeds[0], "base", tuple(recipes), terms, out, dtype)
        names = [way.name for way in ways(first)]
        runs += [Run(each, size, seed, name, tuple(recipes), terms, out, dtype) for seed in seeds for name in names]
        if (
            matrix
            and size is None
            and len(comparison_of(first).library) <= MATRIX_UP_TO
            and matrix_rows(each, seeds[0])
        ):
            runs.append(Run(each, size, seeds[0], ALONE, tuple(recipes), terms, out, dtype))
    ended = play(runs, workers, console)
    of_size = {size: [each for each in ended if each.run.size == size] for size in folders}
    result = _folder_result(of_size[None])
    return {
        "title": f"Ways to use a folder of adapters: {ground.name}",
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {workers.processes} process(es)",
        "versions": {name: version(name) for name in ("roster-moe", "torch", "transformers", "peft")},
        "ground": ground.name,
        "seeds": list(seeds),
        "seconds": round(time.monotonic() - started, 1),
        **result,
        "sizes": {str(size): _folder_result(of_size[size]) for size in sizes},
    }


def _folder_result(ended: Sequence[Ended]) -> dict[str, Any]:
    """What came of one folder of adapters."""
    first = ended[0].run
    seeds = list(dict.fromkeys(each.run.seed for each in ended))
    names = [way.name for way in ways(first)]
    by = {(each.run.seed, each.run.way): each for each in ended}
    whole = [name for name in names if all(by[seed, name].measured is not None for seed in seeds)]
    if "base" not in whole:
        raise RosterError(f"the base itself could not answer: {by[seeds[0], 'base'].why}")
    failed = {name: next(by[s, name].why for s in seeds if by[s, name].why) for name in names if name not in whole}
    comparisons = {seed: comparison_of(by[seed, "base"].run) for seed in seeds}
    outcomes: dict[str, dict[int, Any]] = {name: {} for name in whole}
    for seed, comparison in comparisons.items():
        known = [way for way in ways(by[seed, "base"].run) if way.name in whole]
        measured = [by[seed, way.name].measured for way in known]
        for each in judged(comparison, known, [one for one in measured if one is not None]):
            outcomes[each.way.name][seed] = each
    rows = {seed: each.rows for seed, each in comparisons.items()}
    entries = [Entry(rows, outcomes[name]) for name in whole]
    looked_at = {seed: each.looked_at for seed, each in comparisons.items()}
    library = comparisons[seeds[0]].library
    experts = {name: each.card.task for name, each in library.items()}
    groups = list(groups_of(rows[seeds[0]]))
    found = standings(entries, groups)
    for method, entry in zip(found["methods"], entries, strict=True):
        method["to_its_own"] = to_its_own(entry, looked_at, experts)
    seen = [each for each in entries if any(one.chosen is not None for one in each.outcomes.values())]
    if len(experts) >= LARGE:
        seen = []  # a table that nobody could read
    return {
        "experts": len(library),
        "groups": groups,
        "prompts": sum(len(each) for each in rows.values()),
        **found,
        "per_task": per_task(entries),
        "confusion": {each.way.name: confusion(each, looked_at, experts) for each in seen},
        "matrix": _matrix(by.get((seeds[0], ALONE)), comparisons[seeds[0]], first),
        "failed": failed,
    }


def _matrix(ended: Ended | None, comparison: Comparison, run: Run) -> dict[str, Any] | None:
    """Share of right answers of each expert alone, by task."""
    if ended is None or ended.measured is None:
        return None
    asked, names = matrix_rows(run.ground, run.seed), comparison.library.names
    scores = comparison.score([row for _ in names for row in asked], ended.measured.told)
    place: dict[str | None, int] = {}
    for at, adapter in enumerate(comparison.library.values()):
        place.setdefault(adapter.card.task, at)
    order = sorted(range(len(asked)), key=lambda at: place[asked[at].task])  # what belongs together is a diagonal
    values = [[scores[start + at] for at in order] for start in range(0, len(scores), len(asked))]
    return {"rows": names, "columns": [asked[at].task for at in order], "values": values}
