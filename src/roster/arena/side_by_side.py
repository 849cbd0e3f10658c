"""A comparison in the terminal: the verdict, one table, and some prompts with what each way answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from roster.arena.evaluate import wilson
from roster.prompts import Prompt
from roster.train.data import Row

_SHORT = 70
"""Characters of a text that stands beside others."""


def print_comparison(result: Mapping[str, Any], console: Console) -> None:
    """The verdict first, then the table."""
    for sentence in result["verdict"]:
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    made = Table(title="Right answers, % [95 % interval]", title_justify="left")
    made.add_column("", overflow="fold")
    for group in result["groups"]:
        made.add_column(escape(group), justify="right")
    for column in ("as the oracle", "time per token", "reads prompt / answer", "trained"):
        made.add_column(column, justify="right")
    made.add_column("needs beside the folder", overflow="fold")
    kind = None
    for method in result["methods"]:
        if kind not in (None, method["kind"]):
            made.add_section()
        kind = method["kind"]
        made.add_row(escape(method["label"]), *_cells(method, result["groups"]), escape(method["needs"]))
    console.print(made)


def _cells(method: Mapping[str, Any], groups: Sequence[str]) -> list[str]:
    shares = []
    for group in groups:
        share = method["accuracy"][group]
        low, high = wilson(share["mean"] * share["n"], share["n"])
        shares.append(rf"{100 * share['mean']:.1f} \[{100 * low:.0f}, {100 * high:.0f}]")
    same, time = method["agreement"], method["time"]
    passes = f"{method['prompt_reads']:.2f} / {method['answer_reads']:.2f}"
    return [
        *shares,
        "–" if same is None else f"{100 * same:.0f} %",
        "–" if time is None else f"{time:.2f}",
        passes,
        f"{method['trained']:,}",
    ]


def print_answers(
    rows: Sequence[Row],
    said: Mapping[str, Sequence[str]],
    scores: Mapping[str, Sequence[float]],
    console: Console,
    show: int,
) -> None:
    """Some rows, each with what was wanted and what every way said; rows on which the ways differ come first.

    Args:
        rows: what was asked.
        said, scores: of each way, by its label, in the order of the rows.
        console: where to.
        show: how many rows.
    """
    width = max(len(name) for name in said)
    for at in chosen(rows, scores, show):
        row = rows[at]
        console.print(f"\n{_last(row.asked)}", style="bold", markup=False, highlight=False)
        wanted = "(as the base answers)" if row.answer is None else short(row.answer)
        console.print(f"  {'wanted':<{width + 2}} {wanted}", markup=False, highlight=False)
        for name, told in said.items():
            mark = "+" if scores[name][at] >= 1 else "-"
            console.print(f"  {mark} {name:<{width}} {short(told[at])}", markup=False, highlight=False)


def chosen(rows: Sequence[Row], scores: Mapping[str, Sequence[float]], count: int) -> list[int]:
    """Places of rows to show: task by task in turn, those first on which the ways differ."""
    differs = [len({values[at] for values in scores.values()}) > 1 for at in range(len(rows))]
    turns: dict[str | None, int] = {}
    ranked = []
    for at in sorted(range(len(rows)), key=lambda at: not differs[at]):
        turn = turns.setdefault(rows[at].task, 0)
        turns[rows[at].task] = turn + 1
        ranked.append((not differs[at], turn, at))
    return [at for _, _, at in sorted(ranked)[:count]]


def short(text: str) -> str:
    """One line of at most `_SHORT` characters."""
    line = " ".join(text.split())
    return line if len(line) <= _SHORT else line[: _SHORT - 1] + "…"


def _last(prompt: Prompt) -> str:
    return short(prompt if isinstance(prompt, str) else prompt[-1]["content"])
