"""GShard top-2: every token visits its two best experts, whose probabilities are renormalised.

Equation: p = softmax(W x); y = sum over the best two of p_i / (p_1 + p_2) E_i(x); plus the load-balancing loss.
Shapes: router [E, D].
Trains: everything together.
Siblings: Switch keeps one expert.
Source: Lepikhin et al., 2020, "GShard", arXiv:2006.16668; in this form the gate of Mixtral.
Differences: the balance loss counts both choices, the source's the first alone; no capacity, so nothing is dropped;
the second expert is always used, not drawn by its weight.
"""

from __future__ import annotations

from roster.balance import LoadBalancing
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Linear
from roster.select import TopK


def gshard_top2(num_experts: int = 8, k: int = 2, balance: float = 0.01) -> Layout:
    """Top-2 routing.

    Args:
        num_experts: E.
        k: experts per token.
        balance: weight of the load-balancing loss.
    """

    def router(place: Place) -> Router:
        return Router(Linear(place.width, num_experts), TopK(k), [LoadBalancing(balance)])

    return Layout.of(router, num_experts, k)


RECIPE = Recipe(
    slug="gshard-top2",
    title="GShard top-2",
    source="Lepikhin et al., 2020, GShard, arXiv:2006.16668",
    compose=gshard_top2,
    trains="everything",
    batch_invariant=True,
    claim=None,
    evidence="docs/results/moe.md",
    kind="moe",
)
