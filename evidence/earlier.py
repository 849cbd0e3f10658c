"""Checks from before the protocol: no null, no control, no ablation, no interval. Each stays until it is declared.

python -m evidence.earlier --only smear mix   # what it says is no verdict
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import os
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from roster.files import write_whole

CHECKS = {
    "polytropon": ("evidence.checks.polytropon", 5),
    "milora-prompt-routed": ("evidence.checks.milora", 3),
    "mov-molora": ("evidence.checks.molora", 3),
    "x-moe": ("evidence.checks.x_moe", 3),
    "vqmoe": ("evidence.checks.vqmoe", 3),
    "mowe": ("evidence.checks.mowe", 3),
    "evomoe": ("evidence.checks.evomoe", 3),
    "grin": ("evidence.checks.grin", 3),
    "smoe-dropout": ("evidence.checks.smoe_dropout", 3),
    "stablemoe": ("evidence.checks.stablemoe", 3),
    "thor": ("evidence.checks.thor", 3),
    "task-moe": ("evidence.checks.task_moe", 3),
    "task-aware-moe": ("evidence.checks.task_aware", 3),
    "cross-task-moe": ("evidence.checks.cross_task", 5),
    "uni-perceiver-moe": ("evidence.checks.uni_perceiver", 3),
    "router-tuning-mindskip": ("evidence.checks.mindskip", 3),
    "duo-llm": ("evidence.checks.duo_llm", 3),
    "jei-dnn": ("evidence.checks.jei_dnn", 3),
    "scmoe-self-contrast": ("evidence.checks.self_contrast", 3),
    "look-into-moes": ("evidence.checks.look", 3),
    "vision-moe-routers": ("evidence.studies.vision_routers", 3),
    "understanding-moe": ("evidence.studies.clusters", 3),
    "pmoe-patch-routing": ("evidence.studies.patches", 3),
    "fine-grained-moe-scaling": ("evidence.studies.granularity", 1),
    "moec": ("evidence.checks.moec", 3),
    "union-of-experts": ("evidence.checks.union_of_experts", 5),
    "jiuzhang-2": ("evidence.checks.jiuzhang_2", 3),
    "mpoe": ("evidence.checks.mpoe", 5),
    "spatial-moe": ("evidence.checks.spatial_moe", 5),
    "finedeep": ("evidence.checks.finedeep", 3),
    "hmoe": ("evidence.checks.hmoe", 3),
    "da-moe": ("evidence.checks.da_moe", 3),
    "maskmoe": ("evidence.checks.maskmoe", 3),
}
"""Module and number of seeds, by slug."""
NOTE = "Made before [the protocol](../evidence.md): what is called shown here is no verdict."


def run_check(slug: str, console: Console) -> dict[str, Any]:
    """One check over its seeds."""
    name, seeds = CHECKS[slug]
    module = importlib.import_module(name)
    start = time.monotonic()
    figures = []
    for seed in range(seeds):
        figures.append(module.check(seed))
        console.print(f"{slug}, seed {seed}: {figures[-1]}")
    return {
        "shown": module.shown(figures),
        "rule": (module.shown.__doc__ or "").strip(),
        "about": (module.__doc__ or "").strip(),
        "seeds": seeds,
        "seconds": round(time.monotonic() - start, 1),
        "date": datetime.date.today().isoformat(),
        "figures": figures,
    }


def page(results: dict[str, Any], about: dict[str, Any]) -> str:
    """The results as Markdown."""
    made = f"{about['machine']}, {about['versions']}; last run {about['date']}."
    lines = ["# Earlier checks of single methods", "", NOTE, "", made, ""]
    for slug, result in results.items():
        verdict = "shown" if result["shown"] else "not shown here"
        lines += [f"## {slug}: claim {verdict}", "", result["about"], "", f"Rule: {result['rule']}", ""]
        lines += ["| figure | mean | lowest | highest |", "|---|---|---|---|"]
        for name in result["figures"][0]:
            values = [each[name] for each in result["figures"]]
            lines.append(f"| {name} | {statistics.mean(values):.4g} | {min(values):.4g} | {max(values):.4g} |")
        lines += ["", f"{result['seeds']} seeds, {result['seconds']:.0f} s, {result['date']}.", ""]
    return "\n".join(lines)


def main() -> None:
    """Runs the checks asked for and rewrites the results, keeping those of the others."""
    import torch
    import transformers

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*CHECKS, "mix"], default=[*CHECKS, "mix"])
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    console = Console()
    stored = arguments.out / "checks.json"
    content = json.loads(stored.read_text()) if stored.exists() else {"results": {}}
    content["about"] = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, 1 thread",
        "versions": ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft")),
    }
    for slug in arguments.only:
        if slug != "mix":
            content["results"][slug] = run_check(slug, console)
            write_whole(stored, (json.dumps(content, indent=1) + "\n").encode())
            write_whole(arguments.out / "checks.md", page(content["results"], content["about"]).encode())
    if "mix" in arguments.only:
        from evidence.mix import run_mix

        run_mix(arguments.out, console)


if __name__ == "__main__":
    main()
