"""The ladder as docs/results/lm-ladder.md: what is shown, and what is not."""

from __future__ import annotations

from typing import Any

from evidence.ladder.rungs import RUNGS

WORDS = {rung.slug: rung.words for rung in RUNGS}
YARDSTICKS = ("lookup", "mix")


def page(content: dict[str, Any]) -> str:
    """Everything that was measured, in Markdown."""
    about, results = content["about"], content["results"]
    lines = [
        "# The ladder: routing without a label, beside the look-up that has one",
        "",
        "Made by `python -m evidence.ladder` from the recorded data that come with roster.",
        f"{about['date']}, {about['machine']}, {about['versions']}.",
        "",
        "Five folds: a rung learns from four, its dial is set on one half of the fifth and read on the other, and the "
        "other way round; every prompt of the collection is judged once. Costs are held to that of a model drawn at "
        "random, and to a half and a quarter of it. The look-up's table is learned from the same folds; it is told "
        "each prompt's data set, which live traffic does not say. Intervals of the differences from the look-up hold "
        "together at 95 % over all rungs of a collection.",
        "",
        *[f"- {_verdict(name, result)}" for name, result in results.items()],
    ]
    for name, result in results.items():
        lines += ["", *_collection(name, result)]
    return "\n".join(lines) + "\n"


def _verdict(name: str, result: dict[str, Any]) -> str:
    rows = result["shares"]["1.0"]
    rungs = {slug: row["over_lookup_together"] for slug, row in rows.items() if slug not in YARDSTICKS}
    better = [slug for slug, over in rungs.items() if over["low"] > 0]
    best = max(rungs, key=lambda slug: float(rungs[slug]["value"]))
    best_words = f"{best} is {_difference(rungs[best])} from the look-up ({rows['lookup']['quality']['value']:.4f})"
    one = " There is one data set only, so the look-up is a static mix." if result["about"]["datasets"] == 1 else ""
    if better:
        return f"**{name}**: better than the look-up at the cost of random: {', '.join(better)}; {best_words}.{one}"
    return f"**{name}**: no rung is shown to be better than the look-up; the best, {best_words}.{one}"


def _difference(over: dict[str, float]) -> str:
    return f"{over['value']:+.4f} [{over['low']:+.4f}, {over['high']:+.4f}]"


def _collection(name: str, result: dict[str, Any]) -> list[str]:
    about, single = result["about"], result["single"]
    lines = [
        f"## {name}",
        "",
        f"{about['prompts']} prompts, {about['models']} models, data sets: {about['datasets']}. A random model: "
        f"{about['random']['quality']:.4f} for {about['random']['cost']:.3g} ({about['currency']}); the best single "
        f"one: {single['quality']:.4f} for {single['cost']:.3g}; the best answer to every prompt: "
        f"{about['oracle']:.4f}.",
        "",
        *[f"Data: {note}." for note in about["notes"]],
    ]
    if lacking := [
        r.slug for r in RUNGS if name in (r.collections or [name]) and r.slug not in result["shares"]["1.0"]
    ]:
        lines += ["", f"Not run here yet: {', '.join(lacking)} (`python -m evidence.ladder --only {name}`)."]
    for share, rows in result["shares"].items():
        part = {"1.0": "the cost of random", "0.5": "half of it", "0.25": "a quarter of it"}[share]
        lines += [
            "",
            f"### At {part}",
            "",
            "| rung | quality | over the look-up | over the best single model | of its cost |",
            "|---|---|---|---|---|",
            *[_row(slug, row) for slug, row in rows.items()],
        ]
    return lines


def _row(slug: str, row: dict[str, Any]) -> str:
    quality = row["quality"]
    over = _difference(row["over_lookup_together"] or row["over_lookup"]) if slug != "lookup" else "–"
    return (
        f"| {slug}: {WORDS[slug]} | {quality['value']:.4f} [{quality['low']:.4f}, {quality['high']:.4f}] | {over} | "
        f"{_difference(row['over_single'])} | {row['cost_of_single']:.2f} |"
    )
