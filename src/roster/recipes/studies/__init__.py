"""Methods that are no composition for a model: ways of decoding, analyses, experiments. Each composes to a callable."""

from __future__ import annotations

from roster.recipes.studies import (
    carved,
    continual,
    contrast,
    early_exit,
    experiments,
    fedjets,
    fsmoe,
    hyperband,
    look,
    merged,
    mixture_of_prompts,
    r2_t2,
    smaller,
    trained,
)

RECIPES = (
    contrast.RECIPE,
    early_exit.RECIPE,
    look.RECIPE,
    hyperband.RECIPE,
    experiments.VISION,
    experiments.CLUSTERS,
    experiments.PATCHES,
    experiments.GRANULARITY,
    *carved.RECIPES,
    *merged.RECIPES,
    *smaller.RECIPES,
    *trained.RECIPES,
    *continual.RECIPES,
    mixture_of_prompts.RECIPE,
    r2_t2.RECIPE,
    fsmoe.RECIPE,
    fedjets.RECIPE,
)
