"""THOR: no gate. Experts are drawn at random, and two draws of the same input must predict the same.

Equation: y = E_i(x), i uniform; loss = mean of both draws' losses + consistency * symmetric KL of their predictions.
Shapes: nothing to route by.
Trains: everything together; there is no router.
Siblings: random routing is the same without the second draw.
Source: Zuo et al., 2021, "Taming Sparsely Activated Transformer with Stochastic Experts", arXiv:2110.04260.
Differences: the disagreement weighs 1 by default, in the source's experiments more; the draw is per token, in the
source per layer and batch; all blocks that are replaced are stochastic, in the source every second; at evaluation the
draw is a fixed function of the token id, so that the same text always gets the same answer.
"""

from __future__ import annotations

from torch import nn

from roster.moe.layer import MoE
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Random
from roster.select import TopK


def thor(num_experts: int = 4, consistency: float = 1.0) -> Layout:
    """Random experts that agree.

    Args:
        num_experts: E.
        consistency: weight of the disagreement between two draws; 0 trains with one draw.
    """

    def block(place: Place) -> nn.Module:
        place.check_choice(1, num_experts)
        router = Router(Random(num_experts, seed=place.index), TopK(1))
        return MoE(router, place.make_experts(num_experts, place.hidden))

    return Layout(block, trains=frozenset({"experts", "base"}), consistency=consistency)


RECIPE = Recipe(
    slug="thor",
    title="THOR (stochastic experts)",
    source="Zuo et al., 2021, Taming Sparsely Activated Transformer with Stochastic Experts, arXiv:2110.04260",
    compose=thor,
    trains="everything",
    batch_invariant=True,
    claim="Random experts that must agree with each other learn more than random experts that need not.",
    evidence="docs/results/claims.md",
    kind="moe",
)
