"""Noisy top-k: the gate of the first sparsely gated mixtures, with noise that spreads the load.

Equation: H = W x + softplus(N x) * noise; y = sum over the best k of softmax(H over them) E_i(x); plus a * CV^2 of the
importance and of the load. No noise at evaluation.
Shapes: router [E, D], noise [E, D].
Trains: everything together.
Siblings: GShard, where a loss on probabilities replaces noise and both losses.
Source: Shazeer et al., 2017, "Outrageously Large Neural Networks", arXiv:1701.06538.
Differences: both losses weigh 0.01, so that they do not outweigh a loss of some nats on small models; the router starts
at small random weights, not at zero.
"""

from __future__ import annotations

from roster.balance import Importance, NoisyLoad
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Linear, Noisy
from roster.select import TopK


def noisy_top_k(num_experts: int = 8, k: int = 2, importance: float = 0.01, load: float = 0.01) -> Layout:
    """Top-k routing with noise.

    Args:
        num_experts: E.
        k: experts per token.
        importance: weight of the loss on the sum of the weights.
        load: weight of the loss on the expected number of tokens.
    """

    def router(place: Place) -> Router:
        key = f"{place.name}/noise"
        score = Noisy(Linear(place.width, num_experts), place.width, num_experts, key)
        return Router(score, TopK(k), [Importance(importance), NoisyLoad(key, k, load)])

    return Layout.of(router, num_experts, k)


RECIPE = Recipe(
    slug="noisy-top-k",
    title="Noisy top-k",
    source="Shazeer et al., 2017, Outrageously Large Neural Networks, arXiv:1701.06538",
    compose=noisy_top_k,
    trains="everything",
    batch_invariant=True,
    claim=None,
    evidence="docs/results/moe.md",
    kind="moe",
)
