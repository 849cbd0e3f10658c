"""Ways to use a folder of adapters: without routing, told the task, and by any recipe or saved mixture.

A way is a name and a function that makes a model from the comparison's base, on which everything is attached in place;
the comparison takes it off again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from roster.adapters.attach import attach
from roster.adapters.manifest import MixtureManifest
from roster.adapters.merging import merge_experts
from roster.arena.lessons import has_gates, taught
from roster.errors import RosterError
from roster.folders import load_folder
from roster.library import Library
from roster.options import parse_options
from roster.prompts import Rendering
from roster.recipes import RECIPES, Recipe, check_needs, find
from roster.routed.becoming import detach
from roster.saving import read_manifest
from roster.train.data import Row

if TYPE_CHECKING:
    from roster.arena.compare import Comparison

CHOSEN_ON = 24
"""Prompts on which the best single adapter is chosen."""
_NEEDS = {
    "tasks": "the task of each prompt",
    "examples": "example prompts on the cards",
    "gates": "each adapter's own data",
    "training": "pooled data of all adapters",
}
Data = Literal["none", "prompts only", "own data", "pooled data"]
DATA: tuple[Data, ...] = get_args(Data)
"""What a way needs beside the folder, the least first."""
_DATA: dict[str, Data] = {"examples": "prompts only", "gates": "own data", "training": "pooled data"}


@dataclass(frozen=True)
class Way:
    """One way to use the folder.

    Attributes:
        name, label: as in tables.
        kind: see `roster.arena.verdict.Standing`.
        needs: what it needs beside the folder, in words.
        make: the model; the base itself, something attached to it, or a model of its own.
        told: whether the model is told the task of each prompt.
        data: what it needs, by kind.
        trains: whether it learns from the comparison's lessons.
    """

    name: str
    label: str
    kind: Literal["baseline", "recipe", "reference", "bound"]
    needs: str
    make: Callable[[Comparison], Any]
    told: bool = False
    data: Data = "none"
    trains: bool = False


def ways_of(
    library: Library, rows: Sequence[Row], recipes: Sequence[str], mixtures: Sequence[Path], lessons: bool = False
) -> list[Way]:
    """Every way that a comparison tries, the base first.

    Args:
        library: the experts.
        rows: what is asked; without tasks that an expert's card names there is no oracle.
        recipes: names, with options as in `lora-tle:embed=hidden`; `auto` is among them where it is known.
        mixtures: folders that `roster build` wrote, for recipes that have to be trained.
        lessons: whether the comparison has data to train on.

    Raises:
        RosterError: an unknown recipe or option, one that must be trained first, or nothing to compare.
    """
    found = [
        Way("base", "Base alone", "baseline", "nothing", lambda comparison: comparison.base),
        Way(
            "best-single",
            "Best single adapter",
            "baseline",
            "prompts with answers, to choose by",
            best_single,
            data="pooled data",
            trains=lessons,
        ),
        Way("uniform", "Uniform mixing", "baseline", "nothing", lambda c: attached(c, find("uniform"))),
        Way("merged", "Merged adapters", "baseline", "nothing", merged),
    ]
    tasks = {adapter.card.task for adapter in library.values()}
    if any(row.task in tasks for row in rows):
        oracle = find("oracle")
        found.append(Way("oracle", "Oracle by task", "bound", _NEEDS["tasks"], lambda c: attached(c, oracle), True))
    auto = ["auto"] if "auto" in RECIPES else []
    routed = [_of_recipe(name, library, lessons) for name in dict.fromkeys([*auto, *recipes])]
    routed += [_of_folder(folder) for folder in mixtures]
    if not routed:
        raise RosterError("which routers? give --recipe NAME (see `roster methods`), or --mixture FOLDER")
    return found + routed


def attached(comparison: Comparison, recipe: Recipe, options: dict[str, Any] | None = None) -> Any:
    """The whole folder under a recipe."""
    base, library, tokenizer = comparison.base, comparison.library, comparison.rendering
    return attach(base, library, recipe(options), recipe=recipe.slug, options=options, tokenizer=tokenizer)


def alone(comparison: Comparison, name: str) -> Any:
    """One adapter of the folder, on every prompt."""
    library = Library({name: comparison.library[name]})
    return attach(comparison.base, library, find("uniform")(), recipe="uniform")


def best_single(comparison: Comparison) -> Any:
    """The adapter that answers best alone on some of the lessons, or of the prompts themselves, which flatters it."""
    rows = comparison.rows if comparison.lessons is None else comparison.lessons.rows
    answered = [row for row in rows if row.answer is not None] or list(rows)
    step = max(1, -(-len(answered) // CHOSEN_ON))
    sample = answered[::step]
    model = attached(comparison, find("named"))
    try:
        scores = {
            name: sum(comparison.score(sample, comparison.tell(model, sample, f"alone: {name}", [name] * len(sample))))
            for name in comparison.library.names
        }
    finally:
        detach(model)
    return alone(comparison, max(scores, key=scores.__getitem__))


def merged(comparison: Comparison) -> Any:
    """The mean update, cut to the largest rank of one adapter and folded into a copy of the base."""
    model = attached(comparison, find("uniform"))
    ranks = (update.A_RD.shape[0] for adapter in comparison.library.values() for update in adapter.modules.values())
    try:
        return merge_experts(model, rank=max(ranks)).plain_model()
    finally:
        detach(model)


def check_recipes(texts: Sequence[str]) -> None:
    """RosterError for an unknown recipe or option, or one that does not route among adapters."""
    for text in texts:
        _recipe(text)


def _recipe(text: str) -> tuple[Recipe, dict[str, Any]]:
    """A recipe and its options, from `NAME:option=value,...`."""
    name, _, pairs = text.partition(":")
    recipe = find(name)
    if recipe.kind != "mixture":
        raise RosterError(f"recipe {name!r} does not route among adapters (it is of kind {recipe.kind!r})")
    options = parse_options([pair for pair in pairs.split(",") if pair])
    recipe(options)
    return recipe, options


def _of_recipe(text: str, library: Library, lessons: bool) -> Way:
    recipe, options = _recipe(text)
    name = recipe.slug
    trains = recipe.trains != "nothing" and not ("gates" in recipe.needs and has_gates(library))
    if trains and not lessons:
        raise RosterError(f"recipe {name!r} has to be trained: `roster build` it, and give its folder by --mixture")
    if not recipe.causal:
        raise RosterError(f"recipe {name!r} lets a token see those after it: it is for encoders, which answer nothing")
    check_needs(recipe, library)

    def make(comparison: Comparison) -> Any:
        if not trains:
            return attached(comparison, recipe, options)
        given = comparison.base, comparison.library, recipe, options, comparison.rendering, comparison.lessons
        return taught(*given)

    needs, told, data = _about(recipe)
    return Way(text, text, "bound" if told else "recipe", needs, make, told, data, trains)


def _of_folder(folder: Path) -> Way:
    recipe = find(read_manifest(folder, MixtureManifest).recipe)
    needs, told, data = _about(recipe)

    def make(comparison: Comparison) -> Any:
        model = load_folder(folder, base=comparison.base)
        rendering: Rendering = comparison.rendering
        model.roster.tokenizer, model.roster.template = rendering.tokenizer, rendering.template
        return model

    return Way(folder.name, f"{folder.name} ({recipe.slug})", "bound" if told else "recipe", needs, make, told, data)


def _about(recipe: Recipe) -> tuple[str, bool, Data]:
    """What a recipe needs, in words; whether it is told tasks; and the most demanding kind of data among that."""
    needs = ", ".join(_NEEDS[each] for each in recipe.needs) or "nothing"
    kinds = [_DATA[each] for each in recipe.needs if each in _DATA]
    return needs, "tasks" in recipe.needs, max(kinds, key=DATA.index, default="none")
