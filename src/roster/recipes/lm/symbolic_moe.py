"""Symbolic-MoE: name the skills that a prompt asks for, recruit the models whose profiles show them.

Equation: profile_{m, s} = share of successes of m on validation prompts with skill s, drawn to m's overall share;
    suitability of m = mean of its profile over the prompt's skills; expected score = a logistic curve over suitability
    and overall share.
Shapes: profiles [V, M] over V skills.
Trains: nothing by gradient; profiles are counted, one logistic curve turns suitability into an expected score.
Siblings: a k-means table has one group per prompt where this has several skills.
Source: Chen, Yun, Stengel-Eskin, Chen, Bansal, 2025, "Symbolic Mixture-of-Experts: Adaptive Skill-based Routing for
    Heterogeneous Reasoning", arXiv:2503.05641.
Panels: `roster.lm.panel.Panel(fitted, recruits=3)` recruits several models per prompt, asks each of them all its
    prompts in one turn, so that none is loaded twice, and joins the answers by a vote or by an aggregator, which
    `roster.lm.aggregation` finds by its measured ability.
Recorded answers: one recruit is below the look-up by data set (docs/results/lm.md). On CRUX a vote of three recruits
    beats one recruit, but not the best single model nor a vote of the three best (docs/results/checks.md).
Differences: the paper lets a language model name the skills; here they are the prompt's most telling terms, and an
    unknown one counts as the known one that is spelled most like it, where the source's code takes the nearest by
    MiniLM's vectors (`terms="minilm"`), however far. It sums +1 and -1 over successes and failures where this has
    shares. The composition sends a prompt to the best suited model, as a gateway needs it, and a panel stands beside
    it. A panel's recruits are the best suited, all different, where the source's code draws them at random with
    replacement, in proportion to suitability times overall strength at a temperature of 0.5: those chances are
    `Skills.recruiting`. One aggregator per data set, as there.
"""

from __future__ import annotations

from roster.lm.decide import Weights
from roster.lm.encode import encoder as named_encoder
from roster.lm.estimate import Skills
from roster.lm.routing import Routing
from roster.recipes.recipe import Recipe


def symbolic_moe(skills: int = 8, terms: str = "letters", cost_weight: float = 0.0) -> Routing:
    """Symbolic-MoE with one recruit; `roster.lm.panel` takes several.

    Args:
        skills: terms that count as a prompt's skills.
        terms: the encoder by which an unknown term finds its nearest: `letters`, or as anywhere else.
        cost_weight: quality that one unit of the currency is worth.
    """
    estimator = Skills(skills, encoder=named_encoder(terms))
    return Routing(estimator, Weights(cost_weight))


RECIPE = Recipe(
    slug="symbolic-moe",
    title="Symbolic-MoE",
    source="Chen et al., 2025, Symbolic Mixture-of-Experts: Adaptive Skill-based Routing for Heterogeneous Reasoning, "
    "arXiv:2503.05641",
    compose=symbolic_moe,
    trains="router",
    batch_invariant=True,
    claim="On simulated skills, recruiting by the prompt's skills beats the best model of its task; a panel of three "
    "recruits beats the task's three best, whether they vote or the ablest aggregator reads them; and no model is "
    "loaded twice (+8.15 % over multi-agent baselines in the paper).",
    evidence="docs/results/claims.md",
    needs=("training",),
    kind="lm",
)
