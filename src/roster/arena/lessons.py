"""What the ways of a comparison that have to be trained learn from, and for how long: the same for all of them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from roster.errors import RosterError
from roster.library import Library
from roster.library.gates import GATES
from roster.prompts import Rendering
from roster.recipes import Recipe
from roster.train.build import attach_taught
from roster.train.data import Row, digest_of
from roster.train.fit import Settings
from roster.train.plan import plan_of, scratch_folder

_LEAST = 4
"""Steps below which a training of one expert is none."""


@dataclass(frozen=True)
class Lessons:
    """Data and terms of every training.

    Attributes:
        rows: prompts with answers and tasks, of all experts.
        settings: of every training, its seed included.
        scratch: where checkpoints lie until a training ends; one that was cut off carries on from there.
    """

    rows: Sequence[Row]
    settings: Settings
    scratch: Path

    @property
    def digest(self) -> str:
        """Of all that decides what is learnt."""
        told = {"rows": digest_of(self.rows), "settings": asdict(self.settings)}
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def has_gates(library: Library) -> bool:
    """Whether trained gates lie beside every adapter."""
    return all(each.path is not None and (each.path / GATES).is_file() for each in library.values())


def taught(
    base: Any,
    library: Library,
    recipe: Recipe,
    options: Mapping[str, Any],
    rendering: Rendering,
    lessons: Lessons | None,
) -> Any:
    """The base under a recipe that was trained on the lessons.

    Args:
        base: plain; routed in place.
        library: the experts; gates are trained for copies of them.
        recipe, options: the method.
        rendering: how prompts become tokens.
        lessons: what to learn from.

    Raises:
        RosterError: there are no lessons.
    """
    if lessons is None:
        raise RosterError(f"recipe {recipe.slug!r} has to be trained, and there is nothing to train it on")
    plan = plan_of(recipe.slug, options, base, library, lessons.rows, lessons.settings, rendering.digest)
    torch.manual_seed(lessons.settings.seed)
    with scratch_folder(lessons.scratch / recipe.slug, plan) as scratch:
        if "gates" in recipe.needs:
            library = _copied(library, scratch / "experts")
        settings = lessons.settings
        if "gates" in recipe.needs:  # each expert has a training of its own; all of them together have the same budget
            settings = replace(settings, steps=max(_LEAST, settings.steps // len(library)))
        attach_taught(base, library, recipe, options, lessons.rows, rendering, scratch, settings)
    return base.eval()


def _copied(library: Library, folder: Path) -> Library:
    """The same adapters elsewhere, since gates are written beside them; gates that are there already stay."""
    for name, adapter in library.items():
        if adapter.path is None:
            raise RosterError(f"expert {name!r} is not on disk: gates are written beside its adapter")
        shutil.copytree(adapter.path, folder / name, dirs_exist_ok=True)
    return Library.read(folder)
