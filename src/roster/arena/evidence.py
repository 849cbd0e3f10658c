"""`make evidence`: runs every check over several seeds and writes what it says, good or bad, under docs/results.

python -m roster.arena.evidence                    # everything, a few hours on one core
python -m roster.arena.evidence --only smear mix   # some of it
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
    "arrow-mbc": ("roster.arena.checks.arrow", 5),
    "phatgoose": ("roster.arena.checks.phatgoose", 5),
    "polytropon": ("roster.arena.checks.polytropon", 5),
    "smear": ("roster.arena.checks.smear", 5),
    "lora-tle": ("roster.arena.checks.lora_tle", 5),
    "milora-prompt-routed": ("roster.arena.checks.milora", 3),
    "mov-molora": ("roster.arena.checks.molora", 3),
    "x-moe": ("roster.arena.checks.x_moe", 3),
    "rmoe": ("roster.arena.checks.rmoe", 5),
    "attention-router": ("roster.arena.checks.attention_router", 5),
    "hyperrouter": ("roster.arena.checks.hyperrouter", 3),
    "vqmoe": ("roster.arena.checks.vqmoe", 3),
    "autonomy-of-experts": ("roster.arena.checks.autonomy_of_experts", 3),
    "competesmoe": ("roster.arena.checks.competesmoe", 3),
    "mowe": ("roster.arena.checks.mowe", 3),
    "evomoe": ("roster.arena.checks.evomoe", 3),
    "grin": ("roster.arena.checks.grin", 3),
    "smoe-dropout": ("roster.arena.checks.smoe_dropout", 3),
    "stablemoe": ("roster.arena.checks.stablemoe", 3),
    "thor": ("roster.arena.checks.thor", 3),
    "task-moe": ("roster.arena.checks.task_moe", 3),
    "task-aware-moe": ("roster.arena.checks.task_aware", 3),
    "cross-task-moe": ("roster.arena.checks.cross_task", 5),
    "uni-perceiver-moe": ("roster.arena.checks.uni_perceiver", 3),
    "direct-nmt-task-moe": ("roster.arena.checks.direct_nmt", 3),
    "router-tuning-mindskip": ("roster.arena.checks.mindskip", 3),
    "duo-llm": ("roster.arena.checks.duo_llm", 3),
    "jei-dnn": ("roster.arena.checks.jei_dnn", 3),
    "scmoe-self-contrast": ("roster.arena.checks.self_contrast", 3),
    "look-into-moes": ("roster.arena.checks.look", 3),
    "vision-moe-routers": ("roster.arena.studies.vision_routers", 3),
    "understanding-moe": ("roster.arena.studies.clusters", 3),
    "pmoe-patch-routing": ("roster.arena.studies.patches", 3),
    "fine-grained-moe-scaling": ("roster.arena.studies.granularity", 1),
    "loss-free-balancing": ("roster.arena.checks.loss_free_balancing", 5),
    "moec": ("roster.arena.checks.moec", 3),
    "locmoe": ("roster.arena.checks.locmoe", 5),
    "capacity-aware-inference": ("roster.arena.checks.capacity_aware_inference", 5),
    "stratified-moe": ("roster.arena.checks.stratified_moe", 10),
    "union-of-experts": ("roster.arena.checks.union_of_experts", 5),
    "adatt": ("roster.arena.checks.adatt", 5),
    "jiuzhang-2": ("roster.arena.checks.jiuzhang_2", 3),
    "mpoe": ("roster.arena.checks.mpoe", 5),
    "spatial-moe": ("roster.arena.checks.spatial_moe", 5),
    "mmoe-factorized": ("roster.arena.checks.mmoe_factorized", 5),
    "deepseekmoe": ("roster.arena.checks.deepseekmoe", 3),
    "shortcut-moe": ("roster.arena.checks.shortcut_moe", 3),
    "finedeep": ("roster.arena.checks.finedeep", 3),
    "hmoe": ("roster.arena.checks.hmoe", 3),
    "switch-transformer": ("roster.arena.checks.switch", 5),
    "expert-choice": ("roster.arena.checks.expert_choice", 3),
    "base-layers": ("roster.arena.checks.base_layers", 3),
    "dynamic-moe-top-p": ("roster.arena.checks.dynamic_moe", 3),
    "adamoe": ("roster.arena.checks.adamoe", 3),
    "da-moe": ("roster.arena.checks.da_moe", 3),
    "remoe": ("roster.arena.checks.remoe", 5),
    "expert-prototyping": ("roster.arena.checks.expert_prototyping", 5),
    "sam-switch-mixture": ("roster.arena.checks.sam", 3),
    "maskmoe": ("roster.arena.checks.maskmoe", 3),
    "gw-moe": ("roster.arena.checks.gw_moe", 5),
    "symbolic-moe": ("roster.arena.checks.symbolic_moe", 5),
    "smoothie": ("roster.arena.checks.smoothie", 5),
    "routerdc": ("roster.arena.checks.routerdc", 5),
    "model-sat": ("roster.arena.checks.model_sat", 5),
    "composition-of-experts": ("roster.arena.checks.composition_of_experts", 5),
    "modem": ("roster.arena.checks.modem", 5),
    "tryage": ("roster.arena.checks.tryage", 5),
    "carrot-router": ("roster.arena.checks.carrot", 5),
    "llm-bandit": ("roster.arena.checks.llm_bandit", 5),
    "banditeval": ("roster.arena.checks.banditeval", 5),
    "informed-thompson-sampling": ("roster.arena.checks.informed_thompson", 5),
    "masrouter": ("roster.arena.checks.masrouter", 10),
    "expertise-trees": ("roster.arena.checks.expertise_trees", 5),
    "active-ranking-experts": ("roster.arena.checks.active_ranking", 5),
    "learned-best-effort": ("roster.arena.checks.learned_best_effort", 5),
    "workload-aware-router": ("roster.arena.checks.workload_aware", 5),
}
"""Module and number of seeds, by slug."""


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
    lines = ["# Checks of single methods", "", made, ""]
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
        from roster.arena.mix_evidence import run_mix

        run_mix(arguments.out, console)


if __name__ == "__main__":
    main()
