"""Informed Thompson sampling: demonstrations of somebody competent shorten a bandit's learning.

Equation: p(t | all) ~ p(t | gains) prod_j softmax(b t)_{a_j}, with an expert's choices a_j and competence b.
Shapes: means [M], one per model; no prompt is read.
Trains: beliefs about the models, online.
Siblings: the gateway's policy `thompson` reads the prompt and starts from a constant prior.
Source: Hao, Jain, Lattimore, Van Roy, Wen, 2023, "Leveraging Demonstrations to Improve Online Learning: Quality
    Matters", arXiv:2302.03319.
Differences: the posterior is drawn by importance resampling instead of Bayesian bootstrapping; the expert knows the
    true means (the source also lets the expert's own knowledge be in doubt).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from roster.lm.online.informed import InformedThompson
from roster.recipes.recipe import Recipe


def informed_thompson_sampling(competence: float = 10.0, seed: int = 0) -> Callable[..., InformedThompson]:
    """`(models, demonstrations, prior=..., noise=...) -> InformedThompson`.

    Args:
        competence: b, how surely the expert is believed to choose the better of two models.
        seed: of the draws.
    """

    def build(models: tuple[str, ...], demonstrations: tuple[str, ...], **more: Any) -> InformedThompson:
        return InformedThompson(models, demonstrations, competence, seed=seed, **more)

    return build


RECIPE = Recipe(
    slug="informed-thompson-sampling",
    title="Informed Thompson sampling",
    source="Hao et al., 2023, Leveraging Demonstrations to Improve Online Learning: Quality Matters, arXiv:2302.03319",
    compose=informed_thompson_sampling,
    trains="router",
    batch_invariant=True,
    claim="Regret falls with the competence of whoever demonstrated; at zero it is that of plain Thompson sampling.",
    evidence="docs/results/claims.md",
    kind="study",
)
