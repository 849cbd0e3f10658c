"""Recipes: published methods as compositions of parts. One method a file; this list is the catalogue.

The files beside this one route among adapters, those under `moe/` among feed-forward blocks,
those under `lm/` among whole language models; `offload.py` and `place.py` list strategies for mixtures
larger than memory and placements; those under `studies/` are no compositions but things to run.

To add one: write `recipes/<method>.py` with a function that returns a composition and a `RECIPE` record, name it
here, and write its check. The property test of the invariants (tests/test_invariants.py) finds it by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from roster.errors import RosterError, nearest
from roster.recipes import (
    adapter_soup,
    arrow,
    auto,
    c_poly,
    glider,
    hyperformer,
    intuition_mor1e,
    lm,
    logo,
    lora_hub,
    lora_tle,
    loraretriever,
    lorauter,
    mhr,
    milora,
    mixture_linguistic_experts,
    mocle,
    moe,
    molora,
    named,
    offload,
    omni_smola,
    oracle,
    phatgoose,
    place,
    polytropon,
    psec,
    rocket,
    routerretriever,
    sa_mdkif,
    scalearn,
    self_moe,
    sira,
    smear,
    smora,
    studies,
    uniform,
    wemoe,
    xlora,
)
from roster.recipes.needs import check_examples
from roster.recipes.recipe import Recipe

if TYPE_CHECKING:
    from roster.library import Library  # listing recipes does not mean importing PEFT

__all__ = ["DEFAULT", "RECIPES", "Recipe", "check_needs", "find"]


def _catalogue(*recipes: Recipe) -> dict[str, Recipe]:
    by_slug: dict[str, Recipe] = {}
    for recipe in recipes:
        if recipe.slug in by_slug:
            raise RosterError(f"two recipes are called {recipe.slug!r}")
        by_slug[recipe.slug] = recipe
    return by_slug


RECIPES = _catalogue(
    auto.RECIPE,
    uniform.RECIPE,
    named.RECIPE,
    oracle.RECIPE,
    arrow.RECIPE,
    phatgoose.RECIPE,
    glider.RECIPE,
    xlora.RECIPE,
    molora.RECIPE,
    rocket.RECIPE,
    self_moe.RECIPE,
    lora_tle.RECIPE,
    logo.RECIPE,
    adapter_soup.RECIPE,
    loraretriever.RECIPE,
    routerretriever.RECIPE,
    lorauter.RECIPE,
    milora.RECIPE,
    mocle.RECIPE,
    polytropon.RECIPE,
    mhr.RECIPE,
    c_poly.RECIPE,
    hyperformer.RECIPE,
    smora.RECIPE,
    intuition_mor1e.RECIPE,
    sira.RECIPE,
    omni_smola.RECIPE,
    mixture_linguistic_experts.RECIPE,
    scalearn.RECIPE,
    lora_hub.RECIPE,
    smear.RECIPE,
    wemoe.RECIPE,
    psec.RECIPE,
    sa_mdkif.RECIPE,
    *moe.RECIPES,
    *lm.RECIPES,
    *offload.RECIPES,
    *place.RECIPES,
    *studies.RECIPES,
)


DEFAULT = auto.RECIPE.slug
"""Who routes among adapters when nobody says who should."""


def check_needs(recipe: Recipe, library: Library) -> None:
    """Raises RosterError when a recipe reads example prompts that an expert neither has nor can be written."""
    if "examples" in recipe.needs:
        check_examples(library, recipe.slug, written=True)


def find(slug: str) -> Recipe:
    """The recipe of that name; RosterError with the nearest names when there is none."""
    if slug not in RECIPES:
        raise RosterError(f"unknown router {slug!r}: {nearest(slug, RECIPES)}")
    return RECIPES[slug]
