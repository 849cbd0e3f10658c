"""Expert prototyping (k top-1): experts in k groups, and one expert of every group.

Equation: y = sum over groups of p_i E_i(x), i = argmax of the group's own softmax(W_g x).
Shapes: router [E, D], E / k experts per group.
Trains: everything together.
Siblings: GShard's best two of all, which needs a sort, and may lie in one group.
Source: Yang et al., 2021, "M6-T: Exploring Sparse Expert Models and Beyond", arXiv:2105.15082.
Differences: no capacity. No balance loss, which the source finds unnecessary; `balance` adds one over all experts.
"""

from __future__ import annotations

from roster.balance import LoadBalancing
from roster.errors import RosterError
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Linear
from roster.select import Grouped, TopK


def expert_prototyping(num_experts: int = 8, k: int = 2, balance: float = 0.0) -> Layout:
    """One expert of each group.

    Args:
        num_experts: E.
        k: groups, and so experts per token; it divides E.
        balance: weight of the load-balancing loss.
    """
    if k < 1 or num_experts % k:
        raise RosterError(f"recipe 'expert-prototyping': num_experts={num_experts} do not divide into k={k} groups")

    def router(place: Place) -> Router:
        parts = [LoadBalancing(balance)] if balance else []
        return Router(Linear(place.width, num_experts), Grouped(TopK(1, "all"), k), parts)

    return Layout.of(router, num_experts, k, kinds=tuple(expert * k // num_experts for expert in range(num_experts)))


RECIPE = Recipe(
    slug="expert-prototyping",
    title="Expert prototyping (k top-1)",
    source="Yang et al., 2021, M6-T: Exploring Sparse Expert Models and Beyond, arXiv:2105.15082",
    compose=expert_prototyping,
    trains="everything",
    batch_invariant=True,
    claim="The loss is no worse than that of top-k with as many experts per token.",
    evidence="docs/results/claims.md",
    kind="moe",
)
