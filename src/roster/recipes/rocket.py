"""Rocket: a few shots of a task pick adapters that are good at it and unlike each other; these begin a mixture that
goes on to learn.

Equation: y = W x + sum over the top k of p_e scale_e B_e A_e x, p = softmax(W_g x) over the chosen.
Shapes: one router per linear layer, [E, I].
Trains: routers and experts together.
Siblings: `mov-molora` mixes all experts; `sira` has a capacity.
Source: Yang et al., 2024, "Leveraging Open Knowledge for Advancing Task Expertise in Large Language Models",
    arXiv:2408.15915; the authors' repository is Yaphabates/Rocket.
Differences: which adapters take part is decided before: `roster.train.kshot.choose` ranks a library by exact answers
    and by the loss of the shots' answers, and takes the group of good ones whose updates are least alike. How the
    source weighs both figures is not clear from its code; here it is by places. It compares flattened factors, and here
    the updates themselves, exactly. Its choice of further rows by likeness to the shots is not part of the recipe.
"""

from __future__ import annotations

from roster.adapters.mixing import Mixing, Site
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Linear
from roster.select import TopK


def rocket(top_k: int = 2, train_experts: bool = True) -> Mixing:
    """A mixture of chosen experts.

    Args:
        top_k: experts per token and layer.
        train_experts: False trains only the routers.
    """

    def router(site: Site) -> Router:
        return Router(Linear(site.width, site.num_experts), TopK(top_k))

    return Mixing(router, at="linear", trains=frozenset({"router", "experts"} if train_experts else {"router"}))


RECIPE = Recipe(
    slug="rocket-kshot-experts",
    title="Rocket (K-shot experts)",
    source="Yang et al., 2024, Leveraging Open Knowledge for Advancing Task Expertise in Large Language Models, "
    "arXiv:2408.15915",
    compose=rocket,
    trains="router and experts",
    batch_invariant=True,
    claim="Exact answers and perplexity together find true experts among lucky guessers, and their mixture is better.",
    evidence="tests/train/test_kshot.py",
    needs=("training",),
)
