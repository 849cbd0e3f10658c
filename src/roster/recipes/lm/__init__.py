"""Recipes of routers among whole language models. One method a file; this list is their part of the catalogue.

Each composes a `roster.lm.routing.Routing`: an estimator and a decision rule.
"""

from __future__ import annotations

from roster.recipes.lm import (
    carrot,
    composition_of_experts,
    model_sat,
    modem,
    plain,
    routerdc,
    smoothie,
    symbolic_moe,
    tryage,
    yardsticks,
)

RECIPES = (
    *yardsticks.RECIPES,
    *plain.RECIPES,
    carrot.RECIPE,
    routerdc.RECIPE,
    tryage.RECIPE,
    modem.RECIPE,
    composition_of_experts.RECIPE,
    model_sat.RECIPE,
    smoothie.RECIPE,
    symbolic_moe.RECIPE,
)
