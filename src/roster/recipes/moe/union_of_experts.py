"""Union of experts: experts are slices of one dense block, and a patch of tokens uses some of them in full.

Equation: y = sum over the chosen of E_i(x); all of them together are the dense block. The k experts of a patch are
those with the best scores W x at its first token; gradients reach W as if the chosen were weighted by softmax(W x).
Shapes: router [E, D]; the union is a dense block of E / k times the width that one token uses.
Trains: everything together.
Siblings: GShard weighs its experts and chooses for every token.
Source: Yang et al., 2025, "Union of Experts: Adapting Hierarchical Routing to Equivalently Decomposed Transformer",
arXiv:2503.02495.
Differences: only the feed-forward half (the source divides attention heads in the same way); a patch is decided by its
first token, for a mean over the patch would let a causal model see ahead; no expert chooses its patches.
"""

from __future__ import annotations

import torch
from torch import nn

from roster.balance import LoadBalancing
from roster.moe.layer import MoE
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Linear, Patched
from roster.select import TopK, Unit


def union_of_experts(num_experts: int = 8, k: int = 2, patch: int = 4, balance: float = 0.01) -> Layout:
    """Slices of a dense block.

    Args:
        num_experts: E.
        k: experts per patch.
        patch: tokens per patch.
        balance: weight of the load-balancing loss.
    """

    def block(place: Place) -> nn.Module:
        place.check_choice(k, num_experts)
        score = Patched(Linear(place.width, num_experts), patch, place.name)
        router = Router(score, Unit(TopK(k, "all")), [LoadBalancing(balance)])
        experts = place.make_experts(num_experts, place.share(k))
        down_EFD = getattr(experts, "down_EFD", None)
        if isinstance(down_EFD, nn.Parameter):  # not those of a model, which begin as they are
            # Each slice begins as a block of its own width; the sum of k of them is to begin as one dense block.
            with torch.no_grad():
                down_EFD.mul_(k**-0.5)
        return MoE(router, experts)

    return Layout(block, remembers=patch > 1)


RECIPE = Recipe(
    slug="union-of-experts",
    title="Union of experts (UoE)",
    source="Yang et al., 2025, Union of Experts, arXiv:2503.02495",
    compose=union_of_experts,
    trains="everything",
    batch_invariant=True,
    claim="All experts together are the dense block, and at half of them the loss beats random masks.",
    evidence="docs/results/claims.md",
    kind="moe",
)
