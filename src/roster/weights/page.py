"""The page of a run on weights: what was done, what it did to the answers, and figures of the tensors.

Rendered from the JSON that lies beside it; measures nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from roster.reporting import render

RESULT = "the result"
NONE = "–"


@dataclass(frozen=True)
class Table:
    """One section.

    Attributes:
        title, about: above it.
        columns: their names; the first is that of the rows' names.
        rows: texts; a row called `RESULT` is marked.
        folded: whether it is shown only when asked for.
    """

    title: str
    about: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    folded: bool = False


def page(title: str, meta: str, verdict: Sequence[str], tables: Sequence[Table]) -> bytes:
    """One file that needs nothing but itself."""
    shown = [table for table in tables if table.rows]
    return render("weights", title=title, meta=meta, verdict=verdict, tables=shown, result=RESULT).encode()


def quality_table(found: Mapping[str, Any]) -> Table:
    """What `roster.arena.checkpoints` measured: rows of models, perplexity and accuracies where they are there."""
    models: Mapping[str, Mapping[str, Any]] = found["models"]
    kinds = [kind for kind in ("choice", "generation") if any(kind in each for each in models.values())]
    names = {"choice": "multiple choice", "generation": "generation"}
    rows = []
    for name, each in models.items():
        cells = [f"{each['perplexity']:.4g}"]
        for kind in kinds:
            share = each.get(kind)
            low_high = "" if share is None else f" [{100 * share['low']:.1f}, {100 * share['high']:.1f}]"
            cells.append(NONE if share is None else f"{100 * share['accuracy']:.1f} %{low_high}")
        rows.append([name, *cells])
    about = (
        f"On {found['rows']} rows of {found['data']}, {found['tokens']:,} tokens counted. Perplexity: of answers where "
        "rows have one, else of whole texts. Multiple choice: the likeliest of the given answers, by mean over its "
        "tokens. Generation: exact match of the greedy answer. Brackets: 95 % (Wilson). The two are apart, for they "
        "rank methods differently."
    )
    return Table("What it answers", about, ["model", "perplexity", *(names[kind] for kind in kinds)], rows)


def share(value: float | None) -> str:
    """A share as per cent."""
    return NONE if value is None else f"{100 * value:.1f} %"


def number(value: float | None) -> str:
    """Four significant digits."""
    return NONE if value is None else f"{value:.4g}"


def cosine(value: float | None) -> str:
    """With its sign."""
    return NONE if value is None else f"{value:+.4f}"
