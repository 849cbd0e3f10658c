"""Attention Router: experts' scores are an attention among the experts, so that pairs that belong together are chosen.

Equation: q, k, v = W_q x, W_k x, W_v x in R^E; scores = softmax(q k^T) v; softmax over the best k.
Shapes: W_q, W_k, W_v [E, D].
Trains: everything together.
Siblings: GShard's router is W_v alone.
Source: Wu et al., 2024, "Yuan 2.0-M32: Mixture of Experts with Attention Router", arXiv:2405.17976.
Differences: 8 experts of which 2 serve, where the source has 32; the source states no balance loss, here there is one.
"""

from __future__ import annotations

from roster.balance import LoadBalancing
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Attention
from roster.select import TopK


def attention_router(num_experts: int = 8, k: int = 2, balance: float = 0.01) -> Layout:
    """Top-k routing by attention among experts.

    Args:
        num_experts: E.
        k: experts per token.
        balance: weight of the load-balancing loss.
    """

    def router(place: Place) -> Router:
        return Router(Attention(place.width, num_experts), TopK(k), [LoadBalancing(balance)])

    return Layout.of(router, num_experts, k)


RECIPE = Recipe(
    slug="attention-router",
    title="Attention Router (Yuan 2.0-M32)",
    source="Wu et al., 2024, Yuan 2.0-M32: Mixture of Experts with Attention Router, arXiv:2405.17976",
    compose=attention_router,
    trains="everything",
    batch_invariant=True,
    claim="A router that relates the experts to each other reaches a better model than a linear one.",
    evidence="docs/results/claims.md",
    kind="moe",
)
