"""Random routing: what a mixture is worth whose router knows nothing.

Equation: y = mean over k experts drawn at random of E_i(x); in training every call draws anew, at evaluation the draw
hangs on the token id and the layer.
Shapes: no router.
Trains: everything but the routes.
Siblings: THOR makes two draws agree; hash routing draws once.
Source: roster.
"""

from __future__ import annotations

from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Random
from roster.select import TopK


def random_routing(num_experts: int = 4, k: int = 1, seed: int = 0) -> Layout:
    """Routing by lot.

    Args:
        num_experts: E.
        k: experts per token.
        seed: of the draws at evaluation; every layer has its own.
    """

    def router(place: Place) -> Router:
        # So hot that the weights of the chosen are even.
        return Router(Random(num_experts, seed + place.index), TopK(k, temperature=1e6))

    return Layout.of(router, num_experts, k)


RECIPE = Recipe(
    slug="random-routing",
    title="Random routing",
    source="roster",
    compose=random_routing,
    trains="everything",
    batch_invariant=True,
    claim=None,
    evidence="docs/results/moe.md",
    kind="moe",
)
