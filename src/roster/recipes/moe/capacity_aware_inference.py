"""Capacity-aware inference: at inference no expert serves more than its share times a factor; the rest moves on.

Equation: top-k of softmax(W x) renormalised; capacity C = ceil(factor * pairs / E); the C pairs of an expert with the
largest weights stay, the others go to the next best expert of their token that has room ("reroute") or are dropped
("score", "random", "order").
Shapes: router [E, D].
Trains: everything together, without a capacity.
Siblings: GShard, which this is in training; Switch and GShard drop in training, in the order of the tokens.
Source: He et al., 2025, "Capacity-Aware Inference: Mitigating the Straggler Effect in Mixture of Experts",
arXiv:2503.05066.
Differences: C is rounded up; pairs that chose an expert themselves keep their places before any that is sent there,
where in the source all candidates compete by score for all places; and the weights are not renormalised: a rerouted
pair weighs what the softmax gives its new expert, and the token's other weights stay as they are.
"""

from __future__ import annotations

from roster.balance import LoadBalancing
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Linear
from roster.select import Capacity, TopK
from roster.select.capacity import Overflow


def capacity_aware_inference(
    num_experts: int = 8, k: int = 2, factor: float = 1.5, overflow: Overflow = "reroute", balance: float = 0.01
) -> Layout:
    """Top-k routing under a capacity.

    Args:
        num_experts: E.
        k: experts per token.
        factor: capacity relative to an even load.
        overflow: what becomes of pairs beyond it; see `roster.select.Capacity`.
        balance: weight of the load-balancing loss.
    """

    def router(place: Place) -> Router:
        select = Capacity(TopK(k), factor, overflow, when="evaluation")
        return Router(Linear(place.width, num_experts), select, [LoadBalancing(balance)])

    return Layout.of(router, num_experts, k)


RECIPE = Recipe(
    slug="capacity-aware-inference",
    title="Capacity-aware inference",
    source="He et al., 2025, Capacity-Aware Inference, arXiv:2503.05066",
    compose=capacity_aware_inference,
    trains="everything",
    batch_invariant=False,
    causal=False,
    claim="Inference is faster at an equal quality: rerouting costs less than dropping, by score less than at random.",
    evidence="docs/results/claims.md",
    kind="moe",
)
