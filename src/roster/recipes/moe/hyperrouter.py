"""HyperRouter: the router's weights come from a frozen random network, of which only the input is trained.

Equation: W = V relu(U z); scores = W x; softmax over the best k.
Shapes: U [H, Z] and V [E, D, H] frozen, z [Z] trained.
Trains: everything together; of the router only z.
Siblings: SMoE-Dropout freezes the router whole, GShard trains it whole.
Source: Do et al., 2023, "HyperRouter: Towards Efficient Training and Inference of Sparse Mixture of Experts",
arXiv:2312.07035.
Differences: every layer has a network of its own (all are frozen draws), with one embedding and ReLU, where the
source's code has several embeddings, each for a chunk of the weights, and tanh; top 2 of 8 half-width experts.
"""

from __future__ import annotations

from roster.balance import LoadBalancing
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Hypernetwork
from roster.select import TopK


def hyperrouter(
    num_experts: int = 8, k: int = 2, embedding: int = 32, hidden: int = 64, balance: float = 0.01
) -> Layout:
    """Top-k routing by generated weights.

    Args:
        num_experts: E.
        k: experts per token.
        embedding: Z, what is trained of the router.
        hidden: H.
        balance: weight of the load-balancing loss.
    """

    def router(place: Place) -> Router:
        score = Hypernetwork(place.width, num_experts, embedding, hidden)
        return Router(score, TopK(k), [LoadBalancing(balance)])

    return Layout.of(router, num_experts, k)


RECIPE = Recipe(
    slug="hyperrouter",
    title="HyperRouter",
    source="Do et al., 2023, HyperRouter, arXiv:2312.07035",
    compose=hyperrouter,
    trains="everything",
    batch_invariant=True,
    claim="Between a frozen and a fully trained router lies one that collapses less than either and learns better.",
    evidence="docs/results/claims.md",
    kind="moe",
)
