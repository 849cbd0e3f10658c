"""The arena `mix` as evidence: several draws of test prompts, and the claims of the recipes that it can judge.

python -m evidence.mix

The routers are the shipped ones, so the spread is over prompts; the spread over trainings is in the checks.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from roster.arena.contenders import CONTENDERS
from roster.arena.mix import GROUPS, run
from roster.files import write_whole

SEEDS, EXAMPLES = 3, 24
Shares = dict[str, dict[str, float]]

CLAIMS: dict[str, tuple[str, Callable[[Shares], bool]]] = {
    "arrow-mbc": (
        "on held-in skills above uniform mixing and random routing, and within 10 points of the oracle",
        lambda s: (
            s["arrow-mbc"]["held-in"] > max(s["uniform"]["held-in"], s["random"]["held-in"])
            and s["oracle"]["held-in"] - s["arrow-mbc"]["held-in"] < 0.10
        ),
    ),
    "phatgoose": (
        "on held-in skills above the merged average and the best single expert",
        lambda s: s["phatgoose"]["held-in"] > max(s["merged"]["held-in"], s["best-single"]["held-in"]),
    ),
    "x-lora": (
        "on held-in and on composed skills above the best single expert and uniform mixing",
        lambda s: all(
            s["x-lora"][group] > max(s["best-single"][group], s["uniform"][group]) for group in ("held-in", "composed")
        ),
    ),
}
"""What must hold at every seed for a claim to count as shown."""


def run_mix(out: Path, console: Console) -> None:
    """Runs the arena at every seed and writes `mix.json` and `mix.md`."""
    results = [run(CONTENDERS, EXAMPLES, seed, console) for seed in range(SEEDS)]
    shares = [_shares(result) for result in results]
    claims = {slug: {"rule": rule, "shown": all(map(holds, shares))} for slug, (rule, holds) in CLAIMS.items()}
    kept = [{key: value for key, value in result.items() if key != "heatmaps"} for result in results]
    write_whole(out / "mix.json", (json.dumps({"claims": claims, "runs": kept}, indent=1) + "\n").encode())
    write_whole(out / "mix.md", _page(results, shares, claims).encode())


def _shares(result: dict[str, Any]) -> Shares:
    return {
        method["name"]: {group: method["accuracy"][group]["mean"] for group in GROUPS} for method in result["methods"]
    }


def _page(results: list[dict[str, Any]], shares: list[Shares], claims: dict[str, Any]) -> str:
    first = results[0]
    versions = ", ".join(f"{name} {number}" for name, number in first["versions"].items())
    lines = [
        "# Ways to use a folder of adapters",
        "",
        f"{first['date']}, {first['machine']}, {versions}. {SEEDS} draws of {EXAMPLES} test prompts per skill; "
        "mean share of right answers in percent, lowest to highest draw in brackets.",
        "",
        f"| | {' | '.join(GROUPS)} | agrees with oracle | extra parameters | time per token |",
        "|---|" + "---|" * (len(GROUPS) + 3),
    ]
    for index, method in enumerate(first["methods"]):
        cells = []
        for group in GROUPS:
            values = [100 * each[method["name"]][group] for each in shares]
            cells.append(f"{statistics.mean(values):.1f} [{min(values):.1f}, {max(values):.1f}]")
        agreement = method["agreement"]
        cells.append("" if agreement is None else f"{100 * agreement:.0f} %")
        cells.append(f"{method['extra_parameters']:,}")
        ratios = [each["methods"][index]["ms_per_token_ratio"] or 1.0 for each in results]
        cells.append(f"{statistics.median(ratios):.2f}")
        lines.append(f"| {method['label']} | {' | '.join(cells)} |")
    lines += ["", "## Claims", ""]
    for slug, claim in claims.items():
        lines.append(f"- `{slug}`: {claim['rule']}, at every draw: {'shown' if claim['shown'] else 'not shown here'}.")
    lines += ["", "## In words (first draw)", "", *[f"- {sentence}" for sentence in first["verdict"]], ""]
    return "\n".join(lines)


if __name__ == "__main__":
    run_mix(Path("docs/results"), Console())
