"""Recipes: published methods as compositions of parts. One method a file; this list is the catalogue.

The files beside this one route among adapters, those under `moe/` among feed-forward blocks,
those under `lm/` among whole language models; those under `studies/` are no compositions but things to run.

To add one: write `recipes/<method>.py` with a function that returns a composition and a `RECIPE` record, name it
here, and write its check. The property test of the invariants (tests/test_invariants.py) finds it by itself.
"""

from __future__ import annotations

from roster.errors import RosterError, nearest
from roster.recipes import (
    arrow,
    lm,
    lora_tle,
    milora,
    moe,
    molora,
    named,
    oracle,
    phatgoose,
    polytropon,
    smear,
    studies,
    uniform,
    xlora,
)
from roster.recipes.recipe import Recipe

__all__ = ["RECIPES", "Recipe", "find"]


def _catalogue(*recipes: Recipe) -> dict[str, Recipe]:
    by_slug: dict[str, Recipe] = {}
    for recipe in recipes:
        if recipe.slug in by_slug:
            raise RosterError(f"two recipes are called {recipe.slug!r}")
        by_slug[recipe.slug] = recipe
    return by_slug


RECIPES = _catalogue(
    uniform.RECIPE,
    named.RECIPE,
    oracle.RECIPE,
    arrow.RECIPE,
    phatgoose.RECIPE,
    xlora.RECIPE,
    molora.RECIPE,
    lora_tle.RECIPE,
    milora.RECIPE,
    polytropon.RECIPE,
    smear.RECIPE,
    *moe.RECIPES,
    *lm.RECIPES,
    *studies.RECIPES,
)


def find(slug: str) -> Recipe:
    """The recipe of that name; RosterError with the nearest names when there is none."""
    if slug not in RECIPES:
        raise RosterError(f"unknown router {slug!r}: {nearest(slug, RECIPES)}")
    return RECIPES[slug]
