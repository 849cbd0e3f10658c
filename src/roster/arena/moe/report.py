"""The arena's result as a web page and as Markdown. Covers showing what `compare` measured; measures nothing."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from roster.arena.moe.compare import BASELINE, EQUAL
from roster.arena.paired import CONFIDENCE, MOST_SEEDS
from roster.files import write_whole
from roster.reporting import render

COLUMNS = (
    "loss", "gain over dense", "code", "manual", "skills", "parameters", "MFLOP/token", "tokens/s", "MiB kept",
    "experts/token", "load above mean", "entropy", "specialisation", "fluctuation", "dropped",
)  # fmt: skip
_ROUTING = ("experts_per_token", "violation", "entropy", "specialisation", "fluctuation", "dropped")
_LINES = 6  # as many curves as can be told apart


def write_page(result: Mapping[str, Any], path: Path) -> Path:
    """Writes the page as one file that needs nothing but itself."""
    rows = [
        {"slug": r["recipe"], "title": r["title"], "cells": cells(r), "baseline": r["recipe"].startswith("dense")}
        for r in result["recipes"]
    ]
    page = render(
        "moe",
        result=result,
        rows=rows,
        columns=COLUMNS,
        verdict=verdict(result),
        figures=figures(result),
        pairs=pair_table(result),
        about_pairs=about_pairs(result),
    )
    return write_whole(path, page.encode())


def markdown(result: Mapping[str, Any]) -> str:
    """The table and the verdict as Markdown."""
    about = ", ".join(f"{name} {value}" for name, value in result["versions"].items())
    lines = ["# Feed-forward mixtures, compared on equal terms", ""]
    lines += [f"{result['date']}, {result['machine']}, {about}; {result['seeds']} seeds, text {result['text']}.", ""]
    lines += [f"Terms: {', '.join(f'{name} {value}' for name, value in result['terms'].items())}.", ""]
    lines += [*(f"- {sentence}" for sentence in verdict(result)), ""]
    lines += ["| recipe | " + " | ".join(COLUMNS) + " |", "|" + "---|" * (len(COLUMNS) + 1)]
    lines += [f"| `{row['recipe']}` | " + " | ".join(cells(row)) + " |" for row in result["recipes"]]
    table = pair_table(result)
    if table["rows"]:
        lines += ["", "## Who is better than whom", "", about_pairs(result), ""]
        lines += ["| | " + " | ".join(f"`{name}`" for name in table["columns"]) + " |"]
        lines += ["|" + "---|" * (len(table["columns"]) + 1)]
        lines += [
            f"| `{name}` | " + " | ".join("" if cell is None else told(cell) for cell in cells) + " |"
            for name, cells in table["rows"]
        ]
    return "\n".join([*lines, ""])


def told(cell: Mapping[str, str]) -> str:
    """A verdict where there is one, and otherwise how many seeds would give one."""
    return cell["text"] if cell["word"] == "undecided" else f"**{cell['word']}** {cell['text']}"


def about_pairs(result: Mapping[str, Any]) -> str:
    """How the table of pairs is to be read."""
    words = [pair["word"] for pair in result["pairs"]]
    settled = len(words) - words.count("undecided")
    return (
        f"{settled} of {len(words)} pairs are settled by {result['seeds']} seeds. A gain is the column's loss minus "
        f"the row's in nats, seed by seed. Better or worse: the {CONFIDENCE:.0%} interval lies on one side of zero, as "
        f"by chance it does for {1 - CONFIDENCE:.0%} of pairs that are equal; alike: within {EQUAL} nats of it."
    )


def pair_table(result: Mapping[str, Any]) -> dict[str, Any]:
    """Every recipe against every other: gains and verdicts, or how many seeds would settle a pair.

    Rows are in the order of the mean loss, which is no verdict. Empty where there was one seed.
    """
    opposite = {"better": "worse", "worse": "better"}
    found: dict[tuple[str, str], dict[str, str]] = {}
    for pair in result["pairs"]:
        for one, other, sign in ((pair["of"], pair["over"], 1), (pair["over"], pair["of"], -1)):
            low, high = sorted((sign * pair["low"], sign * pair["high"]))
            word = pair["word"] if sign == 1 else opposite.get(pair["word"], pair["word"])
            text = f"{sign * pair['mean']:+.3f}"
            if word == "undecided":
                text += f", {pair['seeds']} seeds" if pair["seeds"] is not None else f", > {MOST_SEEDS} seeds"
            title = f"{sign * pair['mean']:+.3f} [{low:+.3f}, {high:+.3f}]"
            found[one, other] = {"word": word, "text": text, "title": title}
    names = [row["recipe"] for row in result["recipes"] if any(row["recipe"] in pair for pair in found)]
    return {"columns": names, "rows": [(one, [found.get((one, other)) for other in names]) for one in names]}


def cells(row: Mapping[str, Any]) -> list[str]:
    """One recipe's figures as text, in the order of `COLUMNS`."""
    loss, gain = row["validation"]["all"], row["gain_over_dense"]
    routing = row["routing"] or {}
    return [
        f"{loss['mean']:.3f} [{loss['low']:.3f}, {loss['high']:.3f}]",
        f"{gain['mean']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]",
        *(f"{row['validation'][name]['mean']:.3f}" for name in ("code", "manual", "skills")),
        f"{row['parameters'] / 1e6:.2f} M",
        f"{row['flops_per_token'] / 1e6:.2f}",
        f"{row['tokens_per_second']:.0f}",
        f"{row['bytes_for_backward'] / 2**20:.1f}",
        *(f"{routing[name]:.3f}" if name in routing else "–" for name in _ROUTING),
    ]


def verdict(result: Mapping[str, Any]) -> list[str]:
    """What the figures say in words, the answer first."""
    rows = {row["recipe"]: row for row in result["recipes"]}
    routed = [row for row in result["recipes"] if not row["recipe"].startswith("dense")]
    better = [row for row in routed if row["gain_over_dense"]["low"] > 0]
    worse = [row for row in routed if row["gain_over_dense"]["high"] < 0]
    steps = result["terms"]["steps"]
    if not routed:
        return ["Only dense models were compared."]
    first = (
        f"After {steps} steps, {len(better)} of {len(routed)} mixtures have a lower loss than a dense model of equal "
        f"cost per token (interval over {result['seeds']} seeds above zero), and {len(worse)} a higher one."
    )
    best = routed[0]
    sentences = [
        first,
        f"The lowest mean is that of {best['title']} at {best['validation']['all']['mean']:.3f}; "
        f"the dense model of equal cost has {rows[BASELINE]['validation']['all']['mean']:.3f}.",
    ]
    names = {row["recipe"] for row in routed}
    among = [pair["word"] for pair in result["pairs"] if pair["of"] in names and pair["over"] in names]
    if among:
        apart = sum(word in ("better", "worse") for word in among)
        sentences.append(
            f"Of {len(among)} pairs of mixtures {apart} are told apart, {among.count('alike')} are alike, and "
            f"{among.count('undecided')} are not settled: the order of means is no result."
        )
    if "dense-total" in rows:
        total = rows["dense-total"]["validation"]["all"]["mean"]
        ahead = [row["recipe"] for row in routed if row["validation"]["all"]["mean"] < total]
        sentences.append(
            f"A dense model with as many parameters as all experts together has {total:.3f}; "
            f"{len(ahead)} mixtures are below it."
        )
    if "random-routing" in rows:
        chance = rows["random-routing"]["validation"]["all"]
        behind = [row["recipe"] for row in routed if row["validation"]["all"]["low"] > chance["high"]]
        sentences.append(
            f"Random routing has {chance['mean']:.3f}; "
            + (f"clearly behind it: {', '.join(behind)}." if behind else "no recipe is clearly behind it.")
        )
    return sentences


def figures(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Pictures as SVG, with captions."""
    rows = result["recipes"]
    tokens = result["terms"]["rows"] * result["terms"]["length"]
    routed = [row for row in rows if row["routing"]][:_LINES]
    lines = list({row["recipe"]: row for row in [*rows[:_LINES], *_dense(rows)]}.values())
    return [
        _figure(
            lambda axes: [
                axes.plot([c["seconds"] for c in r["curve"]], [c["loss"] for c in r["curve"]], label=r["recipe"])
                for r in lines
            ],
            ("seconds of training", "training loss"),
            "Loss against wall time: the best recipes and the dense models.",
        ),
        _figure(
            lambda axes: [
                axes.plot(
                    [c["step"] * tokens * 3 * r["flops_per_token"] / 1e12 for c in r["curve"]],
                    [c["loss"] for c in r["curve"]],
                    label=r["recipe"],
                )
                for r in lines
            ],
            ("TFLOP of training (three forward passes' worth per step)", "training loss"),
            "Loss against arithmetic.",
        ),
        _figure(
            lambda axes: _scatter(axes, rows),
            ("MFLOP per token", "validation loss"),
            "Final loss against cost per token; bars are 95 % intervals. In a crowd the best is named.",
            legend=False,
        ),
        _figure(
            lambda axes: [
                axes.plot(
                    [look["step"] for look in r["over_training"]],
                    [look["violation"] for look in r["over_training"]],
                    marker="o",
                    label=r["recipe"],
                )
                for r in routed
            ],
            ("step", "busiest expert's load above the mean"),
            "Load balance over training (first seed).",
        ),
    ]


def _dense(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [row for row in rows if row["recipe"].startswith("dense")]


def _scatter(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """A point per recipe; names only where they do not cover each other."""
    at = [(row["flops_per_token"] / 1e6, row["validation"]["all"]["mean"]) for row in rows]
    wide, high = (max(each) - min(each) for each in zip(*at, strict=True))
    named: list[tuple[float, float]] = []
    for row, (cost, mean) in zip(rows, at, strict=True):
        loss = row["validation"]["all"]
        axes.errorbar([cost], [mean], yerr=[[mean - loss["low"]], [loss["high"] - mean]], fmt="o")
        if all(abs(cost - x) > wide / 6 or abs(mean - y) > high / 25 for x, y in named):
            named.append((cost, mean))
            axes.annotate(row["recipe"], (cost, mean), fontsize=6, xytext=(4, 2), textcoords="offset points")


def _figure(draw: Any, labels: tuple[str, str], caption: str, legend: bool = True) -> dict[str, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    draw(axes)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.spines[["top", "right"]].set_visible(False)
    if legend:
        axes.legend(fontsize=7, frameon=False)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    return {"svg": Markup(svg[svg.index("<svg") :]), "caption": caption}
