"""DA-MoE: a token to which others pay attention gets more experts.

Equation: K_t = ceil(K a_t / max a), a_t the attention that the layer's attention block pays to token t; y = sum over
the K_t best experts of softmax(W x over them) E_i(x); plus the load-balancing loss.
Shapes: router [E, D].
Trains: everything together; how many experts there are gets no gradient.
Siblings: dynamic-moe-top-p goes by the router's own uncertainty.
Source: Akhavan Aghdam et al., 2024, "DA-MoE", arXiv:2409.06669.
Differences: a_t is relative to even attention, so that a causal model does not favour tokens by position (the source
has encoders), and K_t is proportional to it: the source's exact rule is not known here. What later tokens attend to
decides, so a causal model peeks, a little, and generation step by step differs. An expert is as wide as if a token had
`per_token` of them.
"""

from __future__ import annotations

from torch import nn

from roster.balance import LoadBalancing
from roster.moe.layer import MoE
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Linear
from roster.select import Allotted


def da_moe(num_experts: int = 8, most: int = 4, per_token: int = 2, balance: float = 0.01) -> Layout:
    """Experts in proportion to the attention received.

    Args:
        num_experts: E.
        most: K, experts of the token that gets the most attention.
        per_token: experts per token for which the experts' width is meant.
        balance: weight of the load-balancing loss.
    """

    def block(place: Place) -> nn.Module:
        place.check_choice(most, num_experts)
        router = Router(Linear(place.width, num_experts), Allotted(most), [LoadBalancing(balance)])
        return MoE(router, place.make_experts(num_experts, place.share(per_token)))

    return Layout(block, reads_attention=True)


RECIPE = Recipe(
    slug="da-moe",
    title="DA-MoE",
    source="Akhavan Aghdam et al., 2024, DA-MoE: Towards Dynamic Expert Allocation, arXiv:2409.06669",
    compose=da_moe,
    trains="everything",
    batch_invariant=True,
    causal=False,
    claim="Tokens that matter get more experts; it beats top-1 and equals top-K with fewer calls of experts.",
    evidence="docs/results/claims.md",
    kind="moe",
)
