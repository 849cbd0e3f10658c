"""Symbolic-MoE: name the skills that a prompt asks for, recruit the models whose profiles show them.

Equation: profile_{m, s} = successes less failures of m on validation prompts with skill s; suitability of m =
    its profile summed over the prompt's skills, times its overall competence.
Shapes: profiles [V, M] over V skills.
Trains: nothing by gradient; profiles are counted, one logistic curve turns suitability into an expected score.
Siblings: a k-means table has one group per prompt where this has several skills.
Source: Chen, Yun, Stengel-Eskin, Chen, Bansal, 2025, "Symbolic Mixture-of-Experts: Adaptive Skill-based Routing for
    Heterogeneous Reasoning", arXiv:2503.05641.
Recorded answers: below the look-up by data set (docs/results/lm.md).
Differences: the paper lets a language model name the skills; here they are the prompt's most telling terms. It recruits
    several models per prompt and lets another aggregate their answers; here the best suited one answers, as a gateway
    needs it. Hence its gain by aggregation is out of reach.
"""

from __future__ import annotations

from roster.lm.decide import Weights
from roster.lm.estimate import Skills
from roster.lm.routing import Routing
from roster.recipes.recipe import Recipe


def symbolic_moe(skills: int = 8, cost_weight: float = 0.0) -> Routing:
    """Symbolic-MoE with one recruit.

    Args:
        skills: terms that count as a prompt's skills.
        cost_weight: quality that one unit of the currency is worth.
    """
    return Routing(Skills(skills), Weights(cost_weight))


RECIPE = Recipe(
    slug="symbolic-moe",
    title="Symbolic-MoE",
    source="Chen et al., 2025, Symbolic Mixture-of-Experts: Adaptive Skill-based Routing for Heterogeneous Reasoning, "
    "arXiv:2503.05641",
    compose=symbolic_moe,
    trains="router",
    batch_invariant=True,
    claim="On simulated skills, recruiting by the prompt's skills beats the best model of its task. (The paper's "
    "8.15 % over multi-agent baselines includes aggregation, which is not built.)",
    claim_shown=True,
    evidence="docs/results/checks.md",
    needs=("training",),
    kind="lm",
)
