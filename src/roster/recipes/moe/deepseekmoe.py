"""DeepSeekMoE: many fine experts of which several serve each token, beside shared experts that serve all.

Equation: p = softmax(W x); y = sum over shared E_s(x) + sum over the top k of p_i E_i(x); plus the load-balancing loss.
Shapes: router [E, D]; with the defaults, 15 routed experts and a shared one, each a quarter of a dense block.
Trains: everything together.
Siblings: GShard has experts of twice that width, none shared, and renormalises.
Source: Dai et al., 2024, "DeepSeekMoE: Towards Ultimate Expert Specialization in Mixture-of-Experts Language Models",
arXiv:2401.06066.
Differences: the device-level balance loss is left out, for there are no devices; several shared experts are one of
their summed width, which is the same function.
"""

from __future__ import annotations

from torch import nn

from roster.balance import LoadBalancing
from roster.errors import RosterError
from roster.moe.dense import Dense, Sum
from roster.moe.layer import MoE
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Linear
from roster.select import TopK


def deepseekmoe(num_experts: int = 15, k: int = 3, shared: int = 1, balance: float = 0.01) -> Layout:
    """Fine-grained and shared experts.

    Args:
        num_experts: E, the routed ones.
        k: routed experts per token.
        shared: experts that serve every token.
        balance: weight of the load-balancing loss.
    """
    if shared < 0:
        raise RosterError(f"recipe 'deepseekmoe': shared={shared} experts; there cannot be fewer than none")

    def block(place: Place) -> nn.Module:
        place.check_choice(k, num_experts)
        each = place.share(k + shared)
        router = Router(Linear(place.width, num_experts), TopK(k, "all"), [LoadBalancing(balance)])
        routed = MoE(router, place.make_experts(num_experts, each))
        return Sum(Dense(place.make_experts(1, shared * each)), routed) if shared else routed

    return Layout(block)


RECIPE = Recipe(
    slug="deepseekmoe",
    title="DeepSeekMoE",
    source="Dai et al., 2024, DeepSeekMoE, arXiv:2401.06066",
    compose=deepseekmoe,
    trains="everything",
    batch_invariant=True,
    claim="At equal parameters the loss is below GShard's, and its experts are less redundant.",
    evidence="docs/results/claims.md",
    kind="moe",
)
