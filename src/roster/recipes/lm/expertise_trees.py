"""Expertise trees: a bandit over models whose context is divided into regions of differing expertise, as far as needed.

Equation: split a leaf where mean(e_leaf^2 - e_halves^2) > z standard errors, e the leave-one-out errors of gains.
Shapes: contexts [D], one gain per step, of the model that was chosen.
Trains: the tree and its leaves' means, online.
Siblings: `llm-bandit` is linear in the context; `informed-thompson-sampling` does not read it.
Source: Abels, Lenaerts, Trianni, Nowe, 2023, "Expertise Trees Resolve Knowledge Limitations in Collective
    Decision-Making", arXiv:2305.01063.
Differences: compared with the authors' released code. One expert is asked and only its gain is seen, where there every
    node has a learner that is linear in the advice of all experts; a leaf here is a mean per model. There a node splits
    where two children that replay its history return more than it does; the rule above is our own.
    Known limits: in the check a single learner that is linear in the context loses less than the tree, though the
    regions are boxes, and on LLMRouter's recorded answers the tree scores less than one learner without context.
"""

from __future__ import annotations

from collections.abc import Callable

from roster.lm.online.tree import ExpertiseTree
from roster.recipes.recipe import Recipe


def expertise_trees(
    depth: int = 6, certainty: float = 3.5, noise: float = 0.5, seed: int = 0
) -> Callable[[int], ExpertiseTree]:
    """`(number of models) -> ExpertiseTree`, a learner for `roster.lm.online.replay`.

    Args:
        depth: of the tree at most.
        certainty: standard errors by which a split must predict better.
        noise: standard deviation of a gain around its mean.
        seed: of the draws.
    """
    return lambda models: ExpertiseTree(models, depth, certainty, noise=noise, seed=seed)


RECIPE = Recipe(
    slug="expertise-trees",
    title="Expertise trees",
    source="Abels et al., 2023, Expertise Trees Resolve Knowledge Limitations in Collective Decision-Making, "
    "arXiv:2305.01063",
    compose=expertise_trees,
    trains="router",
    batch_invariant=True,
    claim="Where experts are good in different regions, regret is below that of one model for all contexts and of "
    "nearest neighbours, and the tree splits where the regions end.",
    evidence="docs/results/claims.md",
    kind="study",
)
