"""Soft MoE: experts read weighted means of all tokens of a row, so that nothing is chosen and nothing jumps.

Equation: L = s cos(x, phi); slot j reads sum_t softmax_t(L)_tj x_t; y_t = sum_j softmax_j(L)_tj E(slot j).
Shapes: phi [E, P, D], P slots per expert.
Trains: everything together; no balance loss.
Siblings: expert choice, of which this is the soft form.
Source: Puigcerver et al., 2023, "From Sparse to Soft Mixtures of Experts", arXiv:2308.00951.
Differences: the cost per row is that of E * P tokens whatever its length; the default suits rows of about a hundred
tokens. Every token reads all others, later ones included: for encoders and images. In a causal model it peeks.
"""

from __future__ import annotations

from torch import nn

from roster.moe.layer import MoE
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Slots
from roster.select import Soft


def soft_moe(num_experts: int = 4, slots: int = 24) -> Layout:
    """Soft mixing of tokens.

    Args:
        num_experts: E.
        slots: P, rows that every expert reads.
    """

    def block(place: Place) -> nn.Module:
        place.check_choice(1, num_experts)
        router = Router(Slots(place.width, num_experts, slots), Soft(slots))
        return MoE(router, place.make_experts(num_experts, place.hidden))

    return Layout(block)


RECIPE = Recipe(
    slug="soft-moe",
    title="Soft MoE",
    source="Puigcerver et al., 2023, From Sparse to Soft Mixtures of Experts, arXiv:2308.00951",
    compose=soft_moe,
    trains="everything",
    batch_invariant=True,
    causal=False,
    claim=None,
    evidence="docs/results/moe.md",
    kind="moe",
)
