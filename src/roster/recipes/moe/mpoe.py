"""MPOE: experts share the core of their matrices and differ in small outer tensors.

Equation: W_e = A1_e A2_e C A3_e A4_e (a matrix product operator) for each of an expert's matrices; y = p_i E_i(x) with
p = softmax(W x), i = argmax p; plus the load-balancing loss.
Shapes: router [E, D]; at full bonds C has nearly as many entries as the matrix itself.
Trains: everything together; C by a random part of its entries in each step.
Siblings: Switch, whose experts have nothing in common.
Source: Gao et al., 2022, "Parameter-Efficient Mixture-of-Experts Architecture for Pre-trained Language Models",
arXiv:2203.01104.
Differences: the source decomposes a trained model, so that its experts begin alike; here they begin with different
outer tensors around a random core. Experts are gated (SwiGLU) whatever the model's own block is.
"""

from __future__ import annotations

from torch import nn

from roster.balance import LoadBalancing
from roster.experts import MPOExperts
from roster.moe.layer import MoE
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Linear
from roster.select import TopK


def mpoe(num_experts: int = 4, bond: int = 0, mask: float = 0.5, balance: float = 0.01) -> Layout:
    """Top-1 routing among experts with a shared core.

    Args:
        num_experts: E.
        bond: largest bond between two tensors; 0 for bonds at which any matrix can be written.
        mask: share of the core's entries that a step leaves alone.
        balance: weight of the load-balancing loss.
    """

    def block(place: Place) -> nn.Module:
        router = Router(Linear(place.width, num_experts), TopK(1, "all"), [LoadBalancing(balance)])
        return MoE(router, MPOExperts(num_experts, place.width, place.hidden, bond, mask))

    return Layout(block)


RECIPE = Recipe(
    slug="mpoe",
    title="MPOE (matrix product operators)",
    source="Gao et al., 2022, Parameter-Efficient Mixture-of-Experts Architecture, arXiv:2203.01104",
    compose=mpoe,
    trains="everything",
    batch_invariant=True,
    claim="Experts with a shared core reach the loss of independent ones with a fraction of their parameters.",
    evidence="docs/results/claims.md",
    kind="moe",
)
