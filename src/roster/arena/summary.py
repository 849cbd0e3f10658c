"""From right and wrong answers to what people read: shares with intervals, a table in the terminal, a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from roster.arena.evaluate import wilson
from roster.arena.verdict import Standing, verdict
from roster.pocket.skills import Example

if TYPE_CHECKING:
    from roster.arena.mix import Entry


def accuracy_by_group(right: Sequence[bool], asked: Sequence[Example], groups: Sequence[str]) -> dict[str, Any]:
    """Share, 95 % Wilson interval and number of examples per group."""
    table = {}
    for group in groups:
        share = [good for good, each in zip(right, asked, strict=True) if each.group == group]
        low, high = wilson(sum(share), len(share))
        table[group] = {"mean": sum(share) / len(share), "low": low, "high": high, "n": len(share)}
    return table


def per_skill(entries: Mapping[str, Entry], asked: Sequence[Example], skills: Sequence[str]) -> dict[str, Any]:
    """Share of right answers per contender and skill."""
    values = []
    for entry in entries.values():
        by_skill: dict[str, list[bool]] = {skill: [] for skill in skills}
        for good, each in zip(entry.right, asked, strict=True):
            by_skill[each.skill].append(good)
        values.append([sum(share) / len(share) for share in by_skill.values()])
    return {"rows": [entry.contender.label for entry in entries.values()], "columns": list(skills), "values": values}


def verdicts(entries: Mapping[str, Entry], asked: Sequence[Example], groups: Sequence[str]) -> list[str]:
    """What routing gains over what the same folder gives without it: first on the first group, then on the others.

    Recipes that are told the task of every prompt compete with the oracle, not with routers.
    """
    sentences = []
    for group in groups:
        standings = [
            Standing(
                name,
                entry.contender.label,
                "bound" if entry.contender.kind == "recipe" and entry.contender.task else entry.contender.kind,
                [float(good) for good, each in zip(entry.right, asked, strict=True) if each.group == group],
            )
            for name, entry in entries.items()
        ]
        sentences += verdict(standings, f" on {group} prompts")
    return list(dict.fromkeys(sentences))


def print_table(result: Mapping[str, Any], console: Console) -> None:
    """The main table and the verdict."""
    table = Table(title=f"{result['title']}: share of right answers, with 95 % intervals", title_justify="left")
    table.add_column("", no_wrap=True)
    for group in result["groups"]:
        table.add_column(group, justify="right")
    for column in ("agrees with oracle", "extra parameters", "time per token"):
        table.add_column(column, justify="right")
    kind = None
    for method in result["methods"]:
        if kind not in (None, method["kind"]):
            table.add_section()
        kind = method["kind"]
        cells = [_interval(method["accuracy"][group]) for group in result["groups"]]
        agreement, ratio = method["agreement"], method["ms_per_token_ratio"]
        cells.append("–" if agreement is None else f"{agreement:.0%}")
        cells.append(f"{method['extra_parameters']:,}")
        cells.append("1.00" if ratio is None else f"{ratio:.2f}")
        table.add_row(method["label"], *cells)
    console.print(table)
    for sentence in result["verdict"]:
        console.print(sentence)


def _interval(share: Mapping[str, float]) -> str:
    return f"{share['mean']:.0%} [{share['low']:.0%}, {share['high']:.0%}]".replace("%", "")
