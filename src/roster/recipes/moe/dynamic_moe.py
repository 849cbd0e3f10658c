"""Dynamic MoE: a token gets the fewest experts whose probabilities reach p, so that hard tokens get more.

Equation: P = softmax(W x); S = smallest set with sum of P over S >= p; y = sum over S of P_i E_i(x); plus a * E *
sum_e f_e P_e and b * entropy(P), without which P goes flat and all experts serve.
Shapes: router [E, D].
Trains: everything together.
Siblings: GShard, whose tokens all have two.
Source: Huang et al., 2024, "Harder Tasks Need More Experts: Dynamic Routing in MoE Models", arXiv:2403.07652.
Differences: the entropy loss weighs 0.01, not 0.0001, because runs here are some hundred steps long. An expert is as
wide as if a token had `k` of them; how many it has is for the training to find.
"""

from __future__ import annotations

from roster.balance import Entropy, LoadBalancing
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Linear
from roster.select import TopP


def dynamic_moe_top_p(
    num_experts: int = 8, p: float = 0.4, k: int = 2, balance: float = 0.01, entropy: float = 0.01
) -> Layout:
    """Top-p routing.

    Args:
        num_experts: E.
        p: probability mass to reach.
        k: experts per token for which the experts' width is meant.
        balance: weight of the load-balancing loss.
        entropy: weight of the entropy loss.
    """

    def router(place: Place) -> Router:
        parts = [LoadBalancing(balance), Entropy(entropy)]
        return Router(Linear(place.width, num_experts), TopP(p, renormalize=False), parts)

    return Layout.of(router, num_experts, k)


RECIPE = Recipe(
    slug="dynamic-moe-top-p",
    title="Dynamic MoE (top-p)",
    source="Huang et al., 2024, Harder Tasks Need More Experts: Dynamic Routing in MoE Models, arXiv:2403.07652",
    compose=dynamic_moe_top_p,
    trains="everything",
    batch_invariant=True,
    claim="Harder tokens get more experts, and with no more experts than top-2 on average the loss is no higher.",
    evidence="docs/results/claims.md",
    kind="moe",
)
