"""Mixture of prompts: experts that are prompts; each knows a region of queries, has its own demonstrations and an
instruction that goes with them.

Equation: prompt(q) = instruction_k + demonstrations_k + q, k = argmin ||embed(q) - c_k||, c the centres of k-means.
Shapes: centres [K, D]; texts.
Trains: nothing of the model; instructions are chosen on validation queries, by likelihood or any other score.
Siblings: `mocle` gives clusters of prompts an adapter each, by the same router.
Source: Wang et al., 2024, "One Prompt is not Enough: Automated Construction of a Mixture-of-Expert Prompts",
    arXiv:2407.00256; the authors' repository is ruocwang/mixture-of-prompts.
Differences: who writes instructions is the caller's business (`propose`): a language model behind any endpoint, or a
    list; without one there are demonstrations alone. The number of regions is chosen as in the source.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from roster.recipes.recipe import Recipe


def mixture_of_prompts(regions: int | None = None, seed: int = 0) -> Callable[..., Any]:
    """`(demos, validation, embed, score, propose=...) -> PromptMixture`; see `roster.suiting.regions`.

    Args:
        regions: K; None chooses it.
        seed: of k-means.
    """

    def make(*given: Any, **others: Any) -> Any:
        # By name and at use: what suits what stands above the recipes.
        build = importlib.import_module("roster.suiting.regions").build_prompts
        return build(*given, regions=regions, seed=seed, **others)

    return make


RECIPE = Recipe(
    slug="mixture-of-prompts",
    title="MoP (mixture of prompts)",
    source="Wang et al., 2024, One Prompt is not Enough: Automated Construction of a Mixture-of-Expert Prompts, "
    "arXiv:2407.00256",
    compose=mixture_of_prompts,
    trains="nothing",
    batch_invariant=True,
    claim="Prompts that each know a region of queries win over the best single prompt of equal length.",
    evidence="tests/suiting/test_regions.py",
    needs=("examples",),
    kind="study",
)
