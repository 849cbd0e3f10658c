"""Expert choice: every expert picks the tokens that want it most, so that the load is even by construction.

Equation: G = softmax(W x) over the experts; expert e takes the n c / E tokens of the batch with the largest G_te;
y_t = sum over the experts that took t of G_te E_e(x_t).
Shapes: router [E, D]; n tokens in the batch.
Trains: everything together; no balance loss.
Siblings: Switch and GShard, where tokens pick; base-layers is even too, with one expert for every token.
Source: Zhou et al., 2022, "Mixture-of-Experts with Expert Choice Routing", arXiv:2202.09368.
Differences: n c / E is rounded up; n counts real tokens only. The variant of the source with at most so many experts
per token is left out. Who is picked depends on later tokens too, so a causal model trained with it peeks, a little.
"""

from __future__ import annotations

from torch import nn

from roster.moe.layer import MoE
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Linear
from roster.select import ExpertChoice
from roster.select.expert_choice import Pool


def expert_choice(num_experts: int = 8, per_token: int = 2, pool: Pool = "batch") -> Layout:
    """Experts pick tokens.

    Args:
        num_experts: E.
        per_token: c, experts per token on average.
        pool: tokens that compete: those of the whole "batch", or of each "row", which makes rows independent.
    """

    def block(place: Place) -> nn.Module:
        place.check_choice(per_token, num_experts)
        router = Router(Linear(place.width, num_experts), ExpertChoice(per_token, pool))
        return MoE(router, place.make_experts(num_experts, place.share(per_token)))

    return Layout(block)


RECIPE = Recipe(
    slug="expert-choice",
    title="Expert choice",
    source="Zhou et al., 2022, Mixture-of-Experts with Expert Choice Routing, arXiv:2202.09368",
    compose=expert_choice,
    trains="everything",
    batch_invariant=False,
    causal=False,
    claim="Training reaches the loss of top-1 and top-2 routing in less than half of their steps.",
    evidence="docs/results/claims.md",
    kind="moe",
)
