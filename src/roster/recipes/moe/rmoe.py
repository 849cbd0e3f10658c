"""RMoE: the router of each layer continues the state of the router below, for the same token.

Equation: r_l = GRU(P_l x_l, r_(l-1)), r_0 = 0; scores = W_l r_l; softmax over the best k.
Shapes: P_l [H, D], W_l [E, H]; one GRU cell for all layers.
Trains: everything together.
Siblings: GShard's router is the same without the state.
Source: Qiu et al., 2024, "Layerwise Recurrent Router for Mixture-of-Experts", arXiv:2408.06793.
State: H = 32 numbers per token by default, in the context's memory for one forward call.
Start: P and W normal with deviation 1 / sqrt(inputs), the cell uniform within 1 / sqrt(H) as torch's; so scores begin
wider than under GShard's router, whose W has deviation 0.02.
Balance: Switch's loss, 0.01 * E * sum_e f_e P_e in every layer, P over all E experts and f counting both choices.
Differences: top 2 of 8 half-width experts by default.
"""

from __future__ import annotations

import functools

from torch import nn

from roster.balance import LoadBalancing
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Recurrent
from roster.select import TopK


def rmoe(num_experts: int = 8, k: int = 2, hidden: int = 32, balance: float = 0.01) -> Layout:
    """Top-k routing with a state that rises through the layers.

    Args:
        num_experts: E.
        k: experts per token.
        hidden: H, width of the state.
        balance: weight of the load-balancing loss.
    """
    # One cell for all layers of the model that this layout is for, made when the first layer is.
    cell = functools.cache(lambda: nn.GRUCell(hidden, hidden))

    def router(place: Place) -> Router:
        score = Recurrent(place.width, num_experts, cell(), hidden, place.index)
        return Router(score, TopK(k), [LoadBalancing(balance)])

    return Layout.of(router, num_experts, k)


RECIPE = Recipe(
    slug="rmoe",
    title="RMoE (layerwise recurrent router)",
    source="Qiu et al., 2024, Layerwise Recurrent Router for Mixture-of-Experts, arXiv:2408.06793",
    compose=rmoe,
    trains="everything",
    batch_invariant=True,
    claim="A router that carries its state across layers routes better than routers that decide layer by layer.",
    evidence="docs/results/claims.md",
    kind="moe",
)
