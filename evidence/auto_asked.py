"""What is asked of `auto` and of what serves it, beside what was measured: a table read from the result files.

A figure that nobody has measured says so. How each was measured, and what was tried where one falls short, stands in
the documents that the last column names.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).parents[1] / "benchmarks" / "results"
NOT = "not measured"


def asked(result: dict[str, Any], benchmarks: Path = BENCHMARKS) -> list[str]:
    """The section of the page.

    Args:
        result: what `evidence.auto` has collected.
        benchmarks: the folder with `auto.json`, `serve.json` and `deploy.json`.
    """
    rows = [*_answers(result["answers"]), _left(result.get("routing")), *_folders(result["scale"])]
    rows.append(("pocket models, held-in: `auto` against the oracle", ">= 97 %", "docs/auto.md", "`roster demo`"))
    for name, make in (("auto", _times), ("serve", _served), ("deploy", _deployed)):
        path = benchmarks / f"{name}.json"
        rows += make(json.loads(path.read_text(encoding="utf-8")) if path.exists() else {})
    head = ["## What is asked, and what was measured", "", "| | asked | measured | how |", "|---|---|---|---|"]
    return [*head, *(f"| {' | '.join(row)} |" for row in rows), ""]


Row = tuple[str, str, str, str]


def _answers(answers: dict[str, dict[str, float]]) -> list[Row]:
    ours, oracle = answers.get("auto", {}), answers.get("oracle", {})
    rows = []
    for name, told, share in (
        ("known", "known wordings: share of the oracle's accuracy", "98 %"),
        ("unseen", "unseen wordings: the same", "95 %"),
        ("switching", "chats that switch skills, per turn: the same", "95 %"),
    ):
        found = f"{100 * ours[name] / oracle[name]:.1f} %" if name in ours and oracle.get(name) else NOT
        rows.append((told, f">= {share}", found, "answers, below"))
    found = f"{100 * ours['nobody']:.1f} %" if "nobody" in ours else NOT
    rows.insert(2, ("nobody's prompts answered as the base answers", ">= 95 %", found, "answers, below"))
    return rows


def _left(routing: dict[str, Any] | None) -> Row:
    told = "what that costs: prompts of an adapter's own that go to the base"
    found = NOT
    if routing:
        found = ", ".join(f"{name} {100 * routing['chosen'][name]['left']:.1f}" for name in ("known", "unseen"))
    return told, "<= 2 points", found, "choices, below"


def _folders(scale: dict[str, Any]) -> list[Row]:
    rows = []
    for count, share in (("256", "90 %"), ("1500", "85 %")):
        found, fit = NOT, NOT
        if each := scale.get(count):
            groups = each["groups"]
            found = ", ".join(f"{name} {100 * groups[name]['right']:.1f} %" for name in ("known", "unseen"))
            fit = f"{each['fit_s']:.1f} s"
        rows.append(
            (f"{count} adapters, duplicates and noise among them: choice right", f">= {share}", found, "choices, below")
        )
        rows.append((f"{count} adapters: the router's build, beyond the passes", "<= 60 s", fit, "choices, below"))
    told = "duplicated or noisy adapters in the folder: right answers lost"
    losses = [
        f"{name}: {count} adapters, {loss:+.1f} points"
        for count, each in scale.items()
        for name, loss in each.get("lost", {}).items()
    ]
    return [*rows, (told, "<= 2 points", "; ".join(losses) or NOT, "answers of the folder, below")]


def _times(found: dict[str, Any]) -> list[Row]:
    how = f"benchmarks/auto.py, load {found.get('load', '?')}"
    keys = (
        ("decision among 10,000 adapters, features given", "<= 1 ms", "decision among 10,000, ms", " ms"),
        ("further token, against the base", "<= 1.15", "further token, auto / base", ""),
        ("the same, of PEFT with one adapter", "", "further token, peft / base", ""),
        ("first token, against a named adapter", "<= 2.1", "first token, auto / named", ""),
    )
    return [(told, share, f"{found[key]}{unit}" if key in found else NOT, how) for told, share, key, unit in keys]


def _served(found: dict[str, Any]) -> list[Row]:
    rows = {name: each["tokens_per_second"] for name, each in found.get("rows", {}).items()}
    ours, made = rows.get("roster serve, adapters"), []
    for peer in ("transformers serve", "transformers serve, continuous"):
        ratio = f"{ours / rows[peer]:.2f}" if ours and peer in rows else NOT
        asked_for = ">= 0.85" if peer == "transformers serve" else ""
        made.append((f"`roster serve`, 16 requests over 8 adapters: throughput against {peer}, base", asked_for, ratio))
    return [(*each, "benchmarks/serve.py, docs/serve.md") for each in made]


def _deployed(found: dict[str, Any]) -> list[Row]:
    rows: list[Row] = []
    ratios = [
        f"{each['ratio']} ({each['tokens each']} tokens each)"
        for each in found.get("throughput, first", {}).get("found", [])
    ]
    told = "gateway and vLLM, throughput against vLLM alone"
    rows.append((told, ">= 0.95", ", ".join(ratios) or NOT, "benchmarks/deploy.py"))
    probes = found.get("probes", {}).get("found", {}).get("rows", {})
    first = next((each for name, each in probes.items() if name.startswith("first")), None)
    decision = NOT
    if first is not None:
        decision = f"median {first['own_ms_median']} ms, 95 % {first['own_ms_95']} ms"
    return [*rows, ("the gateway's decision", "< 10 ms", decision, "benchmarks/deploy.py, docs/deploy.md")]
