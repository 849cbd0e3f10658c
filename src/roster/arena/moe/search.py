"""The best settings of one recipe, searched with small models that are stopped early where others are better.

Settings are chosen by the loss on windows of held-out text, on one seed. What comes of it is judged apart: the best and
the recipe's own defaults are trained anew on other seeds, and their loss is that of the arena, on other windows.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from roster.arena.moe.compare import interval
from roster.arena.moe.data import corpus
from roster.arena.moe.pretrain import Terms, losses_of, pretrain
from roster.errors import RosterError, nearest
from roster.files import write_whole
from roster.recipes import Recipe, find
from roster.search import Range, Report, Search, Settings, Space, search
from roster.workers import Workers, one_thread

RATE = "learning_rate"
"""What can be varied beside the recipe's options: a term of the training."""


def parse_space(recipe: Recipe, pairs: list[str]) -> dict[str, Range | tuple[Any, ...]]:
    """`["k=1,2,4", "balance=0.001..0.1:log"]` as a space; ranges of whole numbers stay whole.

    Raises:
        RosterError: no such option, or no values.
    """
    known, space = [*recipe.options(), RATE], {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not text:
            raise RosterError(f"--vary takes name=value,value or name=low..high, not {pair!r}")
        if name not in known:
            raise RosterError(f"recipe {recipe.slug!r} has no option {name!r}: {nearest(name, known)}")
        space[name] = _range(text) if ".." in text else tuple(_value(each) for each in text.split(","))
    return space


def search_recipe(
    slug: str,
    space: Space,
    terms: Terms,
    way: Search,
    *,
    trials: int,
    folder: Path,
    seed: int = 0,
    confirm: int = 2,
    workers: Workers = Workers(),
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Searches, then judges what was found beside the defaults.

    Args:
        slug: a recipe of kind "moe".
        space: options of the recipe, and `learning_rate`.
        terms: of every training that is not stopped.
        way: to search.
        trials: to begin; the first is the defaults', where the space has them.
        folder: for the journal and the runs; what was cut off goes on there.
        seed: of the search, and of every training in it.
        confirm: other seeds on which the best and the defaults are trained to be judged.
        workers: where trials and runs are made.
        report: is told of every trial.
    """
    recipe = find(slug)
    if recipe.kind != "moe":
        raise RosterError(f"recipe {slug!r} makes no feed-forward mixtures (it is of kind {recipe.kind!r})")
    defaults = {**recipe.options(), RATE: terms.learning_rate}
    for name, each in space.items():  # a value that the recipe refuses is refused before anything is trained
        for value in each if isinstance(each, tuple) else ():
            recipe({name: value} if name != RATE else {})
    inside = all(_holds(each, defaults[name]) for name, each in space.items())
    found = search(
        way,
        partial(train_and_tell, recipe.slug, terms, seed, frozenset(way.rungs(terms.steps))),
        space,
        trials=trials,
        most=terms.steps,
        folder=folder,
        seed=seed,
        first={name: defaults[name] for name in space} if inside else None,
        about={"recipe": recipe.slug, "terms": asdict(terms), "text": corpus().digest},
        workers=workers,
        report=report,
    )
    best = found.best.settings
    seeds = [seed + 1 + each for each in range(confirm)]
    jobs = [(settings, other) for other in seeds for settings in ({}, best)]
    losses = _judged(recipe.slug, terms, jobs, folder / "runs", workers)
    gains = [before - after for before, after in zip(losses[::2], losses[1::2], strict=True)]
    return {
        "recipe": recipe.slug,
        "best": best,
        "loss": found.best.loss,
        "trials": [asdict(each) for each in found.trials],
        "steps": found.steps,
        "steps_without_stopping": len(found.trials) * terms.steps,
        "defaults": {name: defaults[name] for name in space},
        "judged_on_seeds": seeds,
        "loss_of_defaults": interval(losses[::2]) if seeds else None,
        "loss_of_best": interval(losses[1::2]) if seeds else None,
        "gain_over_defaults": interval(gains) if seeds else None,
    }


def train_and_tell(
    slug: str, terms: Terms, seed: int, rungs: frozenset[int], settings: Settings, report: Report
) -> float:
    """One training, which tells its loss at some steps; the loss of windows that the arena does not judge by."""
    options, terms = _apart(terms, settings)

    def watch(step: int, model: Any) -> None:
        if step + 1 in rungs:
            model.eval()
            report(step + 1, choosing_loss(model, terms))
            model.train()

    with one_thread():
        return choosing_loss(pretrain(slug, options, terms=terms, seed=seed, each_step=watch).model, terms)


@torch.no_grad()
def choosing_loss(model: Any, terms: Terms) -> float:
    """Nats per token on held-out text, on windows between those of `pretrain.validate`."""
    ids_BS, domain_B = corpus().validation_rows(2 * terms.validation_rows - 1, terms.length)
    between = torch.arange(len(ids_BS)) % (2 * terms.validation_rows - 1) % 2 == 1
    ids_BS, domain_B = ids_BS[between].to(terms.device), domain_B[between].to(terms.device)
    return float(losses_of(model, ids_BS, domain_B, terms.rows).mean())


def _apart(terms: Terms, settings: Settings) -> tuple[dict[str, Any], Terms]:
    """The recipe's options, and the terms with what is no option."""
    options = {name: value for name, value in settings.items() if name != RATE}
    return options, dataclasses.replace(terms, learning_rate=settings.get(RATE, terms.learning_rate))


def _judged(slug: str, terms: Terms, jobs: list[tuple[Settings, int]], folder: Path, workers: Workers) -> list[float]:
    """The arena's loss of each; those that the folder has are read there."""
    paths = [folder / f"{'best' if settings else 'defaults'}-{seed}.json" for settings, seed in jobs]
    found: dict[int, float] = {}
    for place, (job, path) in enumerate(zip(jobs, paths, strict=True)):
        kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if kept.get("settings") == job[0]:
            found[place] = kept["loss"]
    todo = [place for place in range(len(jobs)) if place not in found]
    for at, loss in workers.map(partial(_judge, slug, terms), [jobs[place] for place in todo]):
        found[todo[at]] = loss
        kept = {"settings": jobs[todo[at]][0], "loss": loss}
        write_whole(paths[todo[at]], (json.dumps(kept) + "\n").encode())
    return [found[place] for place in range(len(jobs))]


def _judge(slug: str, terms: Terms, job: tuple[Mapping[str, Any], int]) -> float:
    options, terms = _apart(terms, dict(job[0]))
    with one_thread():
        return pretrain(slug, options, terms=terms, seed=job[1]).validation_loss["all"]


def _holds(each: Range | tuple[Any, ...], value: Any) -> bool:
    if isinstance(each, tuple):
        return value in each
    return isinstance(value, int | float) and each.low <= value <= each.high


def _range(text: str) -> Range:
    text, _, how = text.partition(":")
    low, high = (_value(each) for each in text.split("..", 1))
    if how not in ("", "log") or not all(isinstance(each, int | float) for each in (low, high)):
        raise RosterError(f"a range is low..high or low..high:log, not {text!r}")
    return Range(low, high, how == "log", isinstance(low, int) and isinstance(high, int))


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
