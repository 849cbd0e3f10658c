"""StableMoE: routes are learned early, distilled into a light router over token ids, and frozen for the rest.

Equation: stage one: i = argmax W x, and light = table[id] V^T learns i; stage two: i = argmax light, frozen; in both
y = sigmoid(W_i x) E_i(x).
Shapes: W [E, D], table [V, P], V [E, P].
Trains: everything together; the light router in stage one only, W in both.
Siblings: BASE layers and Switch never freeze; hash routing is frozen from the start.
Source: Dai et al., 2022, "StableMoE: Stable Routing Strategy for Mixture of Experts", arXiv:2204.08396.
Differences: the balance loss is that of Switch; the stages are shares of one training; a held-out token in stage one is
routed by its hidden state, in the source's code by the light router already.
"""

from __future__ import annotations

from torch import nn

from roster.balance import LoadBalancing
from roster.moe.layer import MoE
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Distilled, Linear
from roster.select import GatedTopK


def stablemoe(
    num_experts: int = 4, until: float = 0.1, hidden: int = 32, distill: float = 0.1, balance: float = 0.01
) -> Layout:
    """Top-1 routing that freezes.

    Args:
        num_experts: E.
        until: share of the training that is stage one.
        hidden: P, width of the light router.
        distill: weight of the loss that teaches it.
        balance: weight of the load-balancing loss.
    """

    def block(place: Place) -> nn.Module:
        place.check_choice(1, num_experts)
        inner = Linear(place.width, num_experts)
        key = f"{place.name}.distilled"
        score = Distilled(inner, place.vocab_size, num_experts, hidden, until, distill, key)
        router = Router(score, GatedTopK(1), [LoadBalancing(balance)])
        return MoE(router, place.make_experts(num_experts, place.hidden))

    return Layout(block)


RECIPE = Recipe(
    slug="stablemoe",
    title="StableMoE",
    source="Dai et al., 2022, StableMoE: Stable Routing Strategy for Mixture of Experts, arXiv:2204.08396",
    compose=stablemoe,
    trains="everything",
    batch_invariant=True,
    claim="With routes frozen after an early stage, no token changes its expert any more, and the loss is lower.",
    evidence="docs/results/claims.md",
    kind="moe",
)
