"""HMoE: experts of different sizes, and a loss that makes large ones dear.

Equation: top-k of softmax(W x) renormalised (or top-p); plus a * E * sum_e (d_e / mean d) f_e P_e, d_e being the hidden
units of expert e.
Shapes: router [E, D]; widths of the experts in arithmetic progression around that of GShard's.
Trains: everything together.
Siblings: GShard, whose experts are all of one size.
Source: Wang et al., 2024, "HMoE: Heterogeneous Mixture of Experts for Language Modeling", arXiv:2408.10681.
Differences: the penalty is the load-balancing loss weighted by size; the source's further losses are left out.
Experts are gated (SwiGLU) whatever the model's own block is.
"""

from __future__ import annotations

from torch import nn

from roster.balance import ParameterPenalty
from roster.errors import RosterError
from roster.experts import Ragged
from roster.moe.layer import MoE
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Linear
from roster.select import TopK, TopP


def hmoe(num_experts: int = 8, k: int = 2, spread: float = 0.5, penalty: float = 0.01, p: float = 0.0) -> Layout:
    """Experts of different sizes.

    Args:
        num_experts: E.
        k: experts per token.
        spread: the smallest expert has `1 - spread` of the mean width, the largest `1 + spread`.
        penalty: weight of the parameter penalty.
        p: probability mass to reach instead of choosing k; 0 to choose k.
    """
    if not 0.0 <= spread < 1.0:
        raise RosterError(f"recipe 'hmoe': spread={spread} must be at least 0 and below 1")

    def block(place: Place) -> nn.Module:
        place.check_choice(k, num_experts)
        widths = progression(num_experts, place.share(k), spread)
        select = TopP(p) if p else TopK(k)
        router = Router(Linear(place.width, num_experts), select, [ParameterPenalty(widths, penalty)])
        return MoE(router, Ragged(place.width, widths))

    return Layout(block, kinds=tuple(range(num_experts)))


def progression(count: int, mean: int, spread: float) -> list[int]:
    """`count` widths from `(1 - spread) mean` to `(1 + spread) mean`, of that mean, all at least 1."""
    small = [max(1, round(mean * (1 - spread * (1 - 2 * n / max(1, count - 1))))) for n in range(count // 2)]
    return [*small, *[mean] * (count % 2), *[2 * mean - width for width in reversed(small)]]


RECIPE = Recipe(
    slug="hmoe",
    title="HMoE (heterogeneous experts)",
    source="Wang et al., 2024, HMoE: Heterogeneous Mixture of Experts for Language Modeling, arXiv:2408.10681",
    compose=hmoe,
    trains="everything",
    batch_invariant=True,
    claim="The loss is lower with fewer parameters at work, and harder tokens go to larger experts.",
    evidence="docs/results/claims.md",
    kind="moe",
)
