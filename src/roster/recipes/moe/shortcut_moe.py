"""Shortcut-connected MoE: routed experts read what the preceding block read, a shared expert reads the current input.

Equation: y_l = S_l(x_l) + p_i E_i(x_{l-1}) with p = softmax(W x_{l-1}) and i = argmax p; the routed part needs nothing
that the layer's attention computes, so its communication can run beside that.
Shapes: router [E, D]; with the defaults, 7 routed experts and a shared one, each half of a dense block.
Trains: everything together.
Siblings: DeepSeekMoE, whose routed experts read the current input.
Source: Cai et al., 2024, "Shortcut-connected Expert Parallelism for Accelerating Mixture-of-Experts", arXiv:2404.05019.
Differences: every block is a mixture, where the source keeps every other one dense; the shortcut carries the
normalised input of the preceding block; the first block has none before it and reads its own input.
"""

from __future__ import annotations

from torch import nn

from roster.balance import LoadBalancing
from roster.moe.dense import Dense, Sum
from roster.moe.layer import MoE
from roster.moe.layout import Layout, Place
from roster.moe.shortcut import Shortcut
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Linear
from roster.select import TopK


def shortcut_moe(num_experts: int = 7, k: int = 1, balance: float = 0.01) -> Layout:
    """A shared expert here, routed experts one block back.

    Args:
        num_experts: E, the routed ones.
        k: routed experts per token.
        balance: weight of the load-balancing loss.
    """

    def block(place: Place) -> nn.Module:
        place.check_choice(k, num_experts)
        each = place.share(k + 1)
        router = Router(Linear(place.width, num_experts), TopK(k, "all"), [LoadBalancing(balance)])
        routed = MoE(router, place.make_experts(num_experts, each))
        return Sum(Dense(place.make_experts(1, each)), Shortcut(routed, place.index))

    return Layout(block)


RECIPE = Recipe(
    slug="shortcut-moe",
    title="Shortcut-connected MoE (ScMoE)",
    source="Cai et al., 2024, Shortcut-connected Expert Parallelism, arXiv:2404.05019",
    compose=shortcut_moe,
    trains="everything",
    batch_invariant=True,
    claim="Communication hides behind computation at the validation loss of top-2 routing.",
    evidence="docs/results/claims.md",
    kind="moe",
)
