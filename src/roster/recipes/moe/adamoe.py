"""AdaMoE: null experts among the experts, so that each token decides how many of its k experts work.

Equation: top-k of softmax(W x) over N real and m null experts; weights are renormalised over the real ones; plus a *
(N + m) * sum_e f_e P_e, where all null experts have their mean f. Real experts per token are k N / (N + m) on average.
Shapes: router [N + m, D].
Trains: everything together.
Siblings: GShard has no null experts; dynamic-moe-top-p varies the number by a threshold.
Source: Zeng et al., 2024, "AdaMoE", arXiv:2406.13233.
Differences: trained from scratch here, where the source fine-tunes an existing mixture; an expert is as wide as if a
token visited its average number of real ones.
"""

from __future__ import annotations

from torch import nn

from roster.balance import NullLoadBalancing
from roster.errors import RosterError
from roster.experts import WithNull
from roster.moe.layer import MoE
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Linear
from roster.select import NullTopK


def adamoe(num_experts: int = 8, null: int = 8, k: int = 4, balance: float = 0.01) -> Layout:
    """Top-k among real and null experts.

    Args:
        num_experts: N, the real ones.
        null: m.
        k: experts per token, null ones included.
        balance: weight of the load-balancing loss.
    """
    if null < 0:
        raise RosterError(f"recipe 'adamoe': null={null} must be at least 0")

    def block(place: Place) -> nn.Module:
        place.check_choice(k, num_experts + null)
        router = Router(Linear(place.width, num_experts + null), NullTopK(k, null), [NullLoadBalancing(null, balance)])
        real = max(1, round(k * num_experts / (num_experts + null)))
        return MoE(router, WithNull(place.make_experts(num_experts, place.share(real)), ["zero"] * null))

    return Layout(block, kinds=(0,) * num_experts + (1,) * null)


RECIPE = Recipe(
    slug="adamoe",
    title="AdaMoE",
    source="Zeng et al., 2024, AdaMoE: Token-Adaptive Routing with Null Experts, arXiv:2406.13233",
    compose=adamoe,
    trains="everything",
    batch_invariant=True,
    claim="The real experts per token meet k N / (N + m), filler tokens get fewer, and the loss is not above that of a "
    "fixed top-k of equal cost.",
    evidence="docs/results/claims.md",
    kind="moe",
)
