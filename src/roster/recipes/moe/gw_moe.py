"""GW-MoE: while a mixture is fine-tuned, tokens about which its router is unsure go to all experts.

Equation: p = softmax(W x); y = sum_e p_e E_e(x) where entropy(p) / log E >= h, in training; otherwise, and always at
evaluation, GShard's top-k.
Shapes: router [E, D].
Trains: everything together.
Siblings: GShard, which this is at evaluation, at the same cost.
Source: Wu et al., 2024, "GW-MoE: Resolving Uncertainty in MoE Router with Global Workspace Theory", arXiv:2406.12375.
Differences: `begin` says where in one training the fine-tuning begins, so that one run has both parts; for a mixture
that is trained already it is 0.
"""

from __future__ import annotations

from roster.balance import LoadBalancing
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Linear
from roster.select import Broadcast, TopK


def gw_moe(num_experts: int = 8, k: int = 2, above: float = 0.9, begin: float = 0.5, balance: float = 0.01) -> Layout:
    """Top-k routing that broadcasts uncertain tokens in training.

    Args:
        num_experts: E.
        k: experts per token.
        above: h, entropy relative to that of an even distribution.
        begin: share of the training before the broadcasts begin.
        balance: weight of the load-balancing loss.
    """

    def router(place: Place) -> Router:
        select = Broadcast(TopK(k), above, begin)
        return Router(Linear(place.width, num_experts), select, [LoadBalancing(balance)])

    return Layout.of(router, num_experts, k)


RECIPE = Recipe(
    slug="gw-moe",
    title="GW-MoE",
    source="Wu et al., 2024, GW-MoE: Resolving Uncertainty in MoE Router, arXiv:2406.12375",
    compose=gw_moe,
    trains="everything",
    batch_invariant=True,
    claim="After fine-tuning, the loss on uncertain tokens depends less on which expert they get than after "
    "fine-tuning with top-k, at the same cost of inference.",
    evidence="docs/results/claims.md",
    kind="moe",
)
