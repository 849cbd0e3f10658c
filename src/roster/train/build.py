"""Building a mixture: base and experts in, a folder that `roster.load` reads out, trained where the recipe says so."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import torch

from roster.adapters.attach import attach
from roster.adapters.writing import save
from roster.errors import RosterError
from roster.library import Library
from roster.library.examples import with_examples
from roster.library.written import written
from roster.prompts import Prompt, Rendering
from roster.recipes import Recipe, check_needs, find
from roster.routed.base import finding, load_base, load_tokenizer
from roster.saving import MANIFEST, Wanted
from roster.train.data import Row
from roster.train.fit import Settings, fit
from roster.train.gates import train_gates
from roster.train.plan import plan_of, scratch_folder
from roster.train.search import search


def build(
    base: str | Path,
    experts: str | Path,
    router: str,
    out: str | Path,
    *,
    rows: Sequence[Row] | None = None,
    examples: Mapping[str, Sequence[Prompt]] | None = None,
    options: Mapping[str, Any] | None = None,
    settings: Settings = Settings(),  # noqa: B008
    include_base: bool | None = None,
    template: bool = True,
    **kwargs: Any,
) -> dict[str, Any]:
    """Builds, trains where needed, and saves a mixture.

    Args:
        base: a folder, a name on the hub, or "pocket".
        experts: a folder of PEFT adapters.
        router: a recipe's name.
        out: the folder to write; an interrupted training leaves `OUT.training`, from which it is taken up again.
        rows: training data, for recipes that train; refused by those that do not.
        examples: example prompts by expert, in place of those on the cards.
        options: the recipe's options.
        settings: of the training.
        include_base: whether the base's files go into the folder; by default when it has no public name.
        template: False reads prompts as they stand, whatever chat template the tokenizer has.
        kwargs: for the base's `from_pretrained` (dtype, device_map, ...).

    Returns:
        The training record; empty when nothing was trained.

    Raises:
        RosterError: anything that does not fit, before any work starts.
    """
    out = Path(os.path.abspath(out))  # "." has no name
    recipe = find(router)
    if recipe.kind != "mixture":
        raise RosterError(f"recipe {router!r} does not route among adapters (it is of kind {recipe.kind!r})")
    recipe(options)  # before anything slow
    if out.exists() and any(out.iterdir()) and not (out / MANIFEST).exists():
        raise RosterError(f"{str(out)!r} is not empty and not a mixture; choose another folder")
    trains = _trains(recipe, rows)
    library = with_examples(Library.read(experts), examples or {})
    check_needs(recipe, library)
    model, name = load_base(base, **kwargs)
    library.check(model)
    tokenizer = load_tokenizer(base, **finding(kwargs))
    if trains and tokenizer is None:
        raise RosterError(f"there is no tokenizer beside {str(base)!r}, which training needs")
    rendering = None if tokenizer is None else Rendering(tokenizer, template)
    if rendering is not None and "examples" in recipe.needs:
        library = written(model, library, rendering, settings.seed)
    torch.manual_seed(settings.seed)
    plan: dict[str, Any] = {}
    if rendering is not None and trains:
        plan = plan_of(recipe.slug, options or {}, model, library, rows or (), settings, rendering.digest)
    with scratch_folder(out.with_name(out.name + ".training"), plan) if trains else nullcontext(out) as scratch:
        record = attach_taught(model, library, recipe, options, rows, rendering, scratch, settings)
        cast(Any, model.roster).base_name = name
        save(model, out, Wanted(include_base))
    return record


def attach_taught(
    model: Any,
    library: Library,
    recipe: Recipe,
    options: Mapping[str, Any] | None,
    rows: Sequence[Row] | None,
    rendering: Rendering | None,
    scratch: Path,
    settings: Settings,
) -> dict[str, Any]:
    """Attaches a library under a recipe, and trains what the recipe says.

    Args:
        model: the plain base; routed afterwards.
        library: the experts; gates are written beside those that have none.
        recipe, options: the method.
        rows: training data; None where nothing is to be trained.
        rendering: how prompts become the base's tokens; needed for training.
        scratch: for checkpoints.
        settings: of the training.

    Returns:
        The training record; empty when nothing was trained.
    """
    mixing, record = recipe(options), {}
    if "gates" in recipe.needs and rows is not None:
        record = train_gates(model, library, rows, rendering, scratch, settings)
    attach(model, library, mixing, recipe=recipe.slug, options=options, tokenizer=rendering)
    if mixing.search is not None and rendering is not None:
        return search(model, rows or (), rendering, settings)
    if mixing.trains:
        return fit(model, rows or (), rendering, scratch, settings)
    return record


def _trains(recipe: Recipe, rows: Sequence[Row] | None) -> bool:
    """Whether there is something to train; RosterError when data are missing, or given for nothing."""
    # Gates may lie beside the adapters already; where they do not, the recipe says so.
    finished = "gates" in recipe.needs and rows is None
    trains = recipe.trains != "nothing" and not finished
    if trains and rows is None:
        raise RosterError(f"recipe {recipe.slug!r} trains its {recipe.trains}: give it data (--data FILE.jsonl)")
    if not trains and rows is not None:
        raise RosterError(f"recipe {recipe.slug!r} trains nothing, so it has no use for data")
    return trains
