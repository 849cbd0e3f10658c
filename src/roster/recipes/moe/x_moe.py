"""X-MoE: tokens and experts meet on a sphere of few dimensions, so that tokens are not drawn onto expert vectors.

Equation: s_e = cos(R x, v_e) / tau; p = softmax(s); y = p_i E_i(x) with i = argmax s; plus the load-balancing loss.
Shapes: R [P, D], v [E, P], tau a scalar.
Trains: everything together, tau too.
Siblings: Switch scores by the plain inner product with a vector of width D.
Source: Chi et al., 2022, "On the Representation Collapse of Sparse Mixture of Experts", arXiv:2204.09179.
Differences: P is 8 and not E / 2, which for four experts would leave two dimensions; of the source's two gates the
softmax (its temperature begins at 0.3), not the sigmoid; no capacity; the router is not frozen for fine-tuning.
"""

from __future__ import annotations

from torch import nn

from roster.balance import LoadBalancing
from roster.moe.layer import MoE
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Hyperspherical
from roster.select import TopK


def x_moe(num_experts: int = 4, dimensions: int = 8, temperature: float = 0.3, balance: float = 0.01) -> Layout:
    """Top-1 routing by a cosine.

    Args:
        num_experts: E.
        dimensions: P, of the routing space.
        temperature: tau at the start.
        balance: weight of the load-balancing loss.
    """

    def block(place: Place) -> nn.Module:
        place.check_choice(1, num_experts)
        score = Hyperspherical(place.width, num_experts, dimensions, temperature)
        router = Router(score, TopK(1, "all"), [LoadBalancing(balance)])
        return MoE(router, place.make_experts(num_experts, place.hidden))

    return Layout(block)


RECIPE = Recipe(
    slug="x-moe",
    title="X-MoE",
    source="Chi et al., 2022, On the Representation Collapse of Sparse Mixture of Experts, arXiv:2204.09179",
    compose=x_moe,
    trains="everything",
    batch_invariant=True,
    claim="Routing by cosine in a small space keeps token representations from collapsing, and routes stay steadier.",
    evidence="docs/results/claims.md",
    kind="moe",
)
