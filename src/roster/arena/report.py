"""An arena's result as one web page that needs nothing but itself.

Covers turning the result, plain JSON-able values, into what `reporting/mix.html.j2` shows; it measures nothing. The
result's layout is that of `write_report`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from markupsafe import Markup

from roster.errors import RosterError, nearest
from roster.files import write_whole
from roster.reporting import render

_RESULT = [
    *("title", "date", "machine", "versions", "seed", "seconds", "examples_per_skill"),
    *("groups", "methods", "skills", "matrix", "per_skill", "heatmaps", "verdict"),
]
_METHOD = [
    *("name", "label", "kind", "trains", "note"),
    *("accuracy", "agreement", "extra_parameters", "ms_per_token_ratio"),
]
_NONE = "–"


@dataclass(frozen=True)
class Figure:
    """A column of figures in the main table.

    Attributes:
        heading, small: what stands above it.
        key: of a method.
        text: how a value is written.
    """

    heading: str
    small: str
    key: str
    text: Callable[[Any], str]


KINDS = {
    "recipe": ("Recipes", "what this comparison is about"),
    "baseline": ("Baselines", "what a recipe has to beat to be worth its trouble"),
    "reference": ("References", "what needs everybody's data, and a new training for every new skill"),
    "bound": ("Bounds", "reference limits, not methods to choose from"),
}
"""Kinds of method, in the order in which the page lists them."""

GROUPS = {
    "held-in": "skills that have an expert of their own",
    "unseen": "skills, or wordings of them, that no expert was trained on",
    "composed": "skills that need more than one expert in one answer",
    "known": "wordings that the adapters were trained on, with other items",
    "nobody": "what the base should answer; its own answer is the measure",
    "switching": "chats in which every turn asks for another skill",
    "mixed": "known and nobody's prompts in one batch",
    "all": "every prompt, each once",
}
"""What the usual groups of skills mean; a group not named here is shown without an explanation."""


def percent(share: float) -> str:
    """73 %."""
    return f"{100 * share:.0f} %"


def times(ratio: float) -> str:
    """1.20×."""
    return f"{ratio:.2f}×"


def short_count(count: int) -> str:
    """Three digits and a unit: 0, 950, 12.3 k, 1.25 M, 7 B."""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        # From 999.5 on, three digits of the smaller unit would round to four.
        if abs(count) >= size * 0.9995:
            return f"{count / size:.3g} {unit}"
    return str(count)


FIGURES = (
    Figure("Agreement", "with the oracle", "agreement", percent),
    Figure("Parameters", "added", "extra_parameters", short_count),
    Figure("Time/token", "base = 1", "ms_per_token_ratio", times),
)

BAR_WIDTH, BAR_MARGIN = 128, 5
"""The interval bar's drawing area, in CSS pixels; 0 and 100 % lie at its margins."""


def write_report(result: Mapping[str, Any], path: Path | str) -> Path:
    """Write an arena's result as one self-contained HTML page.

    Args:
        result: the page's content:
            title, date, machine: text; versions: package to version; seed, examples_per_skill: int; seconds: float;
            groups: names of the groups of skills; skills: group to skill names;
            methods: one mapping each, with name, label, kind (a key of `KINDS`), trains, note: text;
            accuracy: group to mean, low and high (0 to 1, a 95 % interval) and n; agreement with the oracle (0 to 1)
            or None; extra_parameters: int; ms_per_token_ratio to the base model, or None;
            matrix, per_skill: rows (experts or methods), columns (skills), values (0 to 1 or None);
            heatmaps: title, prompt, answer, and html, a fragment of `heatmap_html` that is trusted as it is;
            verdict: sentences, the first one the answer.
        path: the file to write, replaced as a whole.

    Returns:
        The path.

    Raises:
        RosterError: a part of the result is missing, has the wrong shape, or names an unknown kind.
    """
    return write_whole(path, render_report(result).encode("utf-8", "backslashreplace"))


def render_report(
    result: Mapping[str, Any], template: str = "mix", figures: Sequence[Figure] = FIGURES, **more: Any
) -> str:
    """The page as text.

    Args:
        result: as in `write_report`; so are the errors.
        template: "mix", or one that extends it.
        figures: columns beside the accuracies.
        more: what the template shows beside.
    """
    _require(result, _RESULT, "the result")
    for method in result["methods"]:
        _require(method, _METHOD, f"method {method.get('name')!r}")
        if method["kind"] not in KINDS:
            raise RosterError(
                f"method {method['name']!r} has kind {method['kind']!r}; {nearest(method['kind'], KINDS)}"
            )
    return render(
        template,
        result=result,
        figures=figures,
        kinds=_methods_by_kind(result, figures),
        columns=[_group_column(group, result) for group in result["groups"]],
        groups=[(group, GROUPS.get(group, ""), result["skills"].get(group, [])) for group in result["groups"]],
        matrix=heat_table(result["matrix"], result, "matrix"),
        per_skill=heat_table(result["per_skill"], result, "per_skill"),
        heatmaps=[dict(each, html=Markup(each["html"])) for each in result["heatmaps"]],
        duration=_duration(result["seconds"]),
        bar_width=BAR_WIDTH,
        bar_margin=BAR_MARGIN,
        **more,
    )


def _require(given: Mapping[str, Any], names: Sequence[str], what: str) -> None:
    missing = [name for name in names if name not in given]
    if missing:
        raise RosterError(f"report: {what} lacks {', '.join(missing)}")


def _methods_by_kind(result: Mapping[str, Any], figures: Sequence[Figure]) -> list[dict[str, Any]]:
    """The main table's row groups: one per kind that occurs."""
    shown = []
    for kind, (heading, meaning) in KINDS.items():
        rows = [_method_row(each, result, figures) for each in result["methods"] if each["kind"] == kind]
        if rows:
            shown.append({"kind": kind, "heading": heading, "meaning": meaning, "rows": rows})
    return shown


def _method_row(method: Mapping[str, Any], result: Mapping[str, Any], figures: Sequence[Figure]) -> dict[str, Any]:
    values = [(method[each.key], each) for each in figures]
    return {
        "method": method,
        "cells": [_accuracy_cell(method, group, result) for group in result["groups"]],
        "figures": [(value, _NONE if value is None else each.text(value)) for value, each in values],
    }


def _accuracy_cell(method: Mapping[str, Any], group: str, result: Mapping[str, Any]) -> dict[str, Any] | None:
    """One accuracy with the places of its interval on the bar; None where it was not measured."""
    found = method["accuracy"].get(group)
    if found is None or found.get("mean") is None:
        return None
    mean, low, high = (
        found[name] if found.get(name) is not None else found["mean"] for name in ("mean", "low", "high")
    )
    best = max((each for _, each in _means(result, group, "recipe")), default=None)
    return {
        "mean": mean,
        "text": f"{100 * mean:.1f}",
        "interval": f"{100 * low:.1f}–{100 * high:.1f}",
        "n": found.get("n"),
        "x": _place(mean),
        "x_low": _place(low),
        "x_high": _place(high),
        "best": method["kind"] == "recipe" and mean == best,
    }


def _group_column(group: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """A column's heading: its number of answers where all methods share it, and the best baseline's place."""
    counts = {each["accuracy"][group].get("n") for each in result["methods"] if each["accuracy"].get(group)}
    baseline = max((mean for _, mean in _means(result, group, "baseline")), default=None)
    return {
        "group": group,
        "n": counts.pop() if len(counts) == 1 else None,
        "x_baseline": None if baseline is None else _place(baseline),
    }


def _means(result: Mapping[str, Any], group: str, kind: str) -> list[tuple[str, float]]:
    """(method name, mean accuracy) of the methods of one kind that were measured on a group."""
    accuracies = [(each["name"], each["accuracy"].get(group)) for each in result["methods"] if each["kind"] == kind]
    return [(name, found["mean"]) for name, found in accuracies if found and found.get("mean") is not None]


def heat_table(table: Mapping[str, Any], result: Mapping[str, Any], what: str) -> dict[str, Any] | None:
    """Rows of heat cells, with the columns' groups; None for a table without rows or columns.

    Args:
        table: rows, columns and values.
        result: where names of rows have their labels.
        what: the table is, for errors.
    """
    _require(table, ("rows", "columns", "values"), what)
    rows, columns, values = table["rows"], table["columns"], table["values"]
    if len(values) != len(rows) or any(len(row) != len(columns) for row in values):
        raise RosterError(f"report: {what} must have {len(rows)} rows of {len(columns)} values")
    if not rows or not columns:
        return None
    labels = {each["name"]: each["label"] for each in result["methods"]}
    kinds = {each["name"]: each["kind"] for each in result["methods"]}
    # An oracle is best nearly everywhere, by construction; what can be chosen is the interesting maximum.
    eligible = [row for name, row in zip(rows, values, strict=True) if kinds.get(name) != "bound"]
    best = [max((row[at] for row in eligible if row[at] is not None), default=None) for at in range(len(columns))]
    group_of = {skill: group for group, skills in result["skills"].items() for skill in skills}
    return {
        "columns": columns,
        "spans": [(group, len(list(span))) for group, span in groupby(columns, lambda skill: group_of.get(skill, ""))],
        "rows": [
            (
                labels.get(name, name),
                kinds.get(name, ""),
                [_heat_cell(v, best[at], name, kinds) for at, v in enumerate(row)],
            )
            for name, row in zip(rows, values, strict=True)
        ],
    }


def _heat_cell(value: float | None, best: float | None, row: str, kinds: Mapping[str, str]) -> dict[str, Any]:
    if value is None:
        return {"text": _NONE, "heat": None, "best": False}
    heat = round(min(1.0, max(0.0, value)), 3)
    return {
        "text": f"{100 * value:.0f}",
        "heat": heat,
        "best": value == best and value > 0 and kinds.get(row) != "bound",
    }


def _place(share: float) -> float:
    """Where a share from 0 to 1 lies on the interval bar, in CSS pixels."""
    return round(BAR_MARGIN + (BAR_WIDTH - 2 * BAR_MARGIN) * min(1.0, max(0.0, share)), 1)


def _duration(seconds: float) -> str:
    """Two units at most: 42 s, 12 min 5 s, 3 h 20 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
