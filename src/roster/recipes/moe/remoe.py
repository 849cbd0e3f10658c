"""ReMoE: the gate is a ReLU, differentiable everywhere, and a price that adapts decides how many experts serve.

Equation: y = sum_e ReLU(w_e x) E_e(x); plus l * sum_e f_e mean ReLU(w_e x), f_e = E / k * share of tokens that e
serves, l multiplied by 1.2 after every step with more than k experts per token and divided by it otherwise.
Shapes: router [E, D].
Trains: everything together.
Siblings: GShard's top-k jumps where the order of two scores changes.
Source: Wang et al., 2024, "ReMoE: Fully Differentiable Mixture-of-Experts with ReLU Routing", arXiv:2412.14711.
Differences: every layer has its own price, so that each comes to k experts per token; the source has one price for the
mean over layers.
"""

from __future__ import annotations

from roster.balance import AdaptiveL1
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Linear
from roster.select import ReLU


def remoe(num_experts: int = 8, k: int = 2, start: float = 1e-8, rate: float = 1.2) -> Layout:
    """ReLU routing.

    Args:
        num_experts: E.
        k: experts per token on average.
        start: the price of gates before the first step.
        rate: how fast it moves.
    """

    def router(place: Place) -> Router:
        return Router(Linear(place.width, num_experts), ReLU(), [AdaptiveL1(k, num_experts, start, rate)])

    return Layout.of(router, num_experts, k)


RECIPE = Recipe(
    slug="remoe",
    title="ReMoE",
    source="Wang et al., 2024, ReMoE: Fully Differentiable Mixture-of-Experts with ReLU Routing, arXiv:2412.14711",
    compose=remoe,
    trains="everything",
    batch_invariant=True,
    claim="The experts per token come to k on average, and the loss is below that of top-k with as many.",
    evidence="docs/results/claims.md",
    kind="moe",
)
