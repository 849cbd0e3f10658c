"""GRIN: experts are drawn in training, and the router's gradient estimates how the loss depends on the draw.

Equation: see `SparseMixer`; at evaluation the best experts, each weighted by its probability when it was taken.
Shapes: router [E, D].
Trains: everything together.
Siblings: GShard differentiates only the weights of those it chose, as if the choice could not have been another.
Source: Liu et al., 2024, "GRIN: GRadient-INformed MoE", arXiv:2409.12136.
Differences: 8 experts of which 2 serve, where the source has 16; no shared or global balance across devices.
"""

from __future__ import annotations

from roster.balance import LoadBalancing
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Linear
from roster.select import SparseMixer


def grin(num_experts: int = 8, k: int = 2, jitter: float = 0.1, balance: float = 0.01) -> Layout:
    """Drawn experts.

    Args:
        num_experts: E.
        k: experts per token.
        jitter: how far behind the best an expert may be and still be drawn.
        balance: weight of the load-balancing loss.
    """

    def router(place: Place) -> Router:
        return Router(Linear(place.width, num_experts), SparseMixer(k, jitter), [LoadBalancing(balance)])

    return Layout.of(router, num_experts, k)


RECIPE = Recipe(
    slug="grin",
    title="GRIN (SparseMixer-v2)",
    source="Liu et al., 2024, GRIN: GRadient-INformed MoE, arXiv:2409.12136",
    compose=grin,
    trains="everything",
    batch_invariant=True,
    claim="The estimate of the router's gradient is nearer to the exact one than the gradient through the gate.",
    evidence="docs/results/claims.md",
    kind="moe",
)
