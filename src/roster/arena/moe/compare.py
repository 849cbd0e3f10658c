"""Comparing recipes: every recipe with every seed, one file per run, so that a comparison that was cut off goes on.

Shape legend: B batch rows, S tokens per row.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from roster.arena.moe.data import corpus
from roster.arena.moe.measures import Routing, bytes_for_backward, flops_per_token, fluctuation, routing
from roster.arena.moe.pretrain import Terms, asked, pretrain
from roster.arena.paired import gain
from roster.errors import RosterError
from roster.files import write_whole
from roster.recipes import RECIPES, find
from roster.workers import Workers, one_thread

CHECKPOINTS = 5
"""How often during training the routes are looked at."""
BASELINE = "dense-active"
EQUAL = 0.01
"""Nats per token: a difference that does not count; within it, two recipes are called alike."""
_T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""Student's t for a two-sided 95 % interval of the mean of so many values."""


def contenders(names: Iterable[str] = ()) -> list[str]:
    """The recipes to compare: those named, or all of kind "moe"; dense models of equal cost always come along."""
    chosen = [find(name).slug for name in names] or [slug for slug, r in RECIPES.items() if r.kind == "moe"]
    for slug in chosen:
        if RECIPES[slug].kind != "moe":
            raise RosterError(f"recipe {slug!r} makes no feed-forward mixtures (it is of kind {RECIPES[slug].kind!r})")
    return list(dict.fromkeys([BASELINE, *chosen]))


def compare(
    recipes: Sequence[str],
    terms: Terms,
    seeds: int,
    folder: Path,
    options: Mapping[str, dict[str, Any]] | None = None,
    workers: Workers = Workers(),
) -> dict[str, Any]:
    """Trains and measures whatever the folder does not yet hold, and returns the summary of all.

    Args:
        recipes: slugs.
        terms: equal for all.
        seeds: seeds 0, 1, ... per recipe.
        folder: one JSON per run; a run made on other terms is an error.
        options: a recipe's options by slug.
        workers: where runs are made; each is written here as soon as it ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    about = {"terms": asdict(terms), "text": corpus().digest, "python": platform.python_version()}
    asked = [(slug, seed) for seed in range(seeds) for slug in recipes]
    paths = {each: folder / f"{each[0]}-{each[1]}.json" for each in asked}
    runs = {each: _read(path, about) for each, path in paths.items() if path.exists()}
    todo = [each for each in asked if each not in runs]
    jobs = [(slug, (options or {}).get(slug), terms, seed) for slug, seed in todo]
    console = Console(stderr=True)
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("training", total=len(asked), completed=len(runs))
        for place, run in workers.map(_alone, jobs, gpus=float(terms.device.startswith("cuda"))):
            each = todo[place]
            runs[each] = {**about, **run}
            write_whole(paths[each], (json.dumps(runs[each], indent=1) + "\n").encode())
            progress.advance(bar)
            if not console.is_terminal:
                line = f"{len(runs)}/{len(asked)}: {each[0]}, seed {each[1]}, {run['seconds']:.1f} s"
                console.print(line, markup=False, highlight=False)
    return summary([runs[each] for each in asked], terms)


def _alone(job: tuple[str, Mapping[str, Any] | None, Terms, int]) -> dict[str, Any]:
    """One run, in whatever process: every run has one thread, wherever it is made."""
    with one_thread():
        return measured_run(*job)


def _read(path: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    run: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for key, value in about.items():
        if run[key] != value:
            raise RosterError(
                f"{str(path)!r} was made with {key}={run[key]}, not {value}: choose another folder, or the same terms"
            )
    return run


def measured_run(slug: str, options: Mapping[str, Any] | None, terms: Terms, seed: int) -> dict[str, Any]:
    """One training, with the routes looked at on the way."""
    text = corpus()
    ids_BS, domain_B = (each.to(terms.device) for each in text.validation_rows(8, terms.length))
    every = max(1, terms.steps // CHECKPOINTS)
    looks: list[dict[str, float]] = []
    last: list[Routing] = []

    def look(step: int, model: Any) -> None:
        if (step + 1) % every:
            return
        now = routing(model, ids_BS, domain_B, **asked(model, domain_B))
        if now is not None:
            moved = {"fluctuation": fluctuation(last[-1], now)} if last else {}
            looks.append({"step": step + 1, **now.figures(), **moved})
            last[:] = [now]

    run = pretrain(slug, options, terms=terms, seed=seed, each_step=look, text=text)
    inputs = asked(run.model, domain_B)
    tokens = terms.steps * terms.rows * terms.length
    return {
        "recipe": slug,
        "seed": seed,
        "validation": run.validation_loss,
        "train_loss": [round(loss, 4) for loss in run.train_loss],
        "seconds": run.seconds,
        "tokens_per_second": tokens / run.seconds,
        "parameters": run.parameters,
        "flops_per_token": flops_per_token(run.model, ids_BS, **inputs),
        "bytes_for_backward": bytes_for_backward(run.model, ids_BS, **inputs),
        "routing": looks,
    }


def summary(runs: Sequence[Mapping[str, Any]], terms: Terms) -> dict[str, Any]:
    """Everything about a comparison in one JSON-able object, best recipe first."""
    by_recipe: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        by_recipe.setdefault(run["recipe"], []).append(run)
    rows = [_row(slug, each, by_recipe[BASELINE]) for slug, each in by_recipe.items()]
    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {terms.device}",
        "versions": {name: version(name) for name in ("torch", "transformers")} | {"python": platform.python_version()},
        "text": runs[0]["text"],
        "terms": asdict(terms),
        "seeds": len(by_recipe[BASELINE]),
        "recipes": sorted(rows, key=lambda row: row["validation"]["all"]["mean"]),
        "pairs": pairs(by_recipe),
    }


def pairs(by_recipe: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Each pair of recipes: the gain of the first over the second in nats, seed by seed, and what may be said of it.

    `seeds` is how many would settle what is undecided if mean and spread stayed; None where it is settled, and
    where not even `MOST_SEEDS` would. A pair without two common seeds is left out.
    """
    losses = {slug: {run["seed"]: run["validation"]["all"] for run in runs} for slug, runs in by_recipe.items()}
    found = []
    for one, other in combinations(losses, 2):
        seeds = sorted(losses[one].keys() & losses[other].keys())
        if len(seeds) < 2:
            continue
        each = gain([losses[one][seed] for seed in seeds], [losses[other][seed] for seed in seeds], "lower")
        word = each.apart(EQUAL)
        settle = each.seeds_to_tell(EQUAL) if word == "undecided" else None
        names = {"of": one, "over": other, "n": each.count}
        found.append({**names, "mean": each.mean, "low": each.low, "high": each.high, "word": word, "seeds": settle})
    return found


def _row(slug: str, runs: Sequence[Mapping[str, Any]], baseline: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    domains = runs[0]["validation"]
    paired = {run["seed"]: run["validation"]["all"] for run in baseline}
    gains = [paired[run["seed"]] - run["validation"]["all"] for run in runs if run["seed"] in paired]
    ends = [run["routing"][-1] for run in runs if run["routing"]]
    return {
        "recipe": slug,
        "title": RECIPES[slug].title,
        "validation": {name: interval([run["validation"][name] for run in runs]) for name in domains},
        "losses": {str(run["seed"]): dict(run["validation"]) for run in runs},
        "gain_over_dense": interval(gains),
        "parameters": runs[0]["parameters"],
        "flops_per_token": statistics.mean(run["flops_per_token"] for run in runs),
        "tokens_per_second": statistics.median(run["tokens_per_second"] for run in runs),
        "bytes_for_backward": runs[0]["bytes_for_backward"],
        "routing": {name: statistics.mean(end[name] for end in ends) for name in ends[0]} if ends else None,
        "over_training": runs[0]["routing"],
        "curve": _curve(runs),
    }


def _curve(runs: Sequence[Mapping[str, Any]], points: int = 20) -> list[dict[str, float]]:
    """Training loss, averaged over stretches of steps and over seeds, against steps, FLOPs per token and seconds."""
    steps = len(runs[0]["train_loss"])
    width = max(1, steps // points)
    curve = []
    for start in range(0, steps - width + 1, width):
        losses = [loss for run in runs for loss in run["train_loss"][start : start + width]]
        curve.append(
            {
                "step": start + width,
                "loss": statistics.mean(losses),
                "seconds": statistics.mean(run["seconds"] for run in runs) * (start + width) / steps,
            }
        )
    return curve


def interval(values: Sequence[float]) -> dict[str, float]:
    """Mean with a 95 % interval (Student's t); a single value has none."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return {"mean": mean, "low": mean, "high": mean}
    half = _T_95.get(len(values), 1.96) * statistics.stdev(values) / len(values) ** 0.5
    return {"mean": mean, "low": mean - half, "high": mean + half}
