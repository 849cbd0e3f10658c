"""Switch Transformer: every token visits one expert, weighted by its router probability.

Equation: p = softmax(W x); y = p_i E_i(x) with i = argmax p; plus the loss a * E * sum_e f_e P_e.
Shapes: router [E, D].
Trains: everything together; the router through p_i.
Siblings: GShard keeps two experts and renormalises their weights.
Source: Fedus, Zoph and Shazeer, 2021, "Switch Transformers", arXiv:2101.03961.
Differences: no capacity by default, so that no token is dropped (`capacity=1.25` is the source's, in the order of the
tokens; with it, rows of a batch are no longer independent); the source's input jitter is left out.
"""

from __future__ import annotations

from torch import nn

from roster.balance import LoadBalancing
from roster.moe.layer import MoE
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Linear
from roster.select import Capacity, TopK


def switch_transformer(num_experts: int = 4, balance: float = 0.01, capacity: float = 0.0) -> Layout:
    """Top-1 routing.

    Args:
        num_experts: E.
        balance: weight of the load-balancing loss.
        capacity: tokens per expert relative to an even load; 0 for no limit.
    """

    def block(place: Place) -> nn.Module:
        select = Capacity(TopK(1, "all"), capacity) if capacity else TopK(1, "all")
        router = Router(Linear(place.width, num_experts), select, [LoadBalancing(balance)])
        return MoE(router, place.make_experts(num_experts, place.hidden))

    return Layout(block)


RECIPE = Recipe(
    slug="switch-transformer",
    title="Switch Transformer",
    source="Fedus, Zoph and Shazeer, 2021, Switch Transformers, arXiv:2101.03961",
    compose=switch_transformer,
    trains="everything",
    batch_invariant=True,
    claim="At equal cost per token, a top-1 mixture reaches a lower loss than the dense model.",
    evidence="docs/results/claims.md",
    kind="moe",
)
