"""Recipes of routers among whole language models. One method a file; this list is their part of the catalogue.

Those of the kind "lm" compose a `roster.lm.routing.Routing`: an estimator and a decision rule. Those of the kind
"study" compose something else to run: a learner without prompts, a way of evaluating, a scheduler.
"""

from __future__ import annotations

from roster.recipes.lm import (
    active_ranking,
    automix,
    avengers,
    banditeval,
    carrot,
    composition_of_experts,
    embedllm,
    expertise_trees,
    frugalgpt,
    informed_thompson,
    irt_router,
    learned_best_effort,
    llm_bandit,
    masrouter,
    model_sat,
    modem,
    plain,
    prompt_to_leaderboard,
    routerdc,
    smoothie,
    symbolic_moe,
    tryage,
    workload_aware,
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
    llm_bandit.RECIPE,
    irt_router.RECIPE,
    embedllm.RECIPE,
    prompt_to_leaderboard.RECIPE,
    avengers.RECIPE,
    informed_thompson.RECIPE,
    banditeval.RECIPE,
    learned_best_effort.RECIPE,
    workload_aware.RECIPE,
    active_ranking.RECIPE,
    expertise_trees.RECIPE,
    masrouter.RECIPE,
    frugalgpt.RECIPE,
    automix.RECIPE,
)
