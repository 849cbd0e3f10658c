"""CompeteSMoE: now and then all experts answer, the strongest win, and the router learns to foresee the winners.

Equation: contest: s_e = ||E_e(x)||, the best k by s serve, and softmax(W x) is drawn to their weights; else s = W x.
Shapes: router [E, D].
Trains: everything together; the router by the contests' outcomes and, between contests, through its weights.
Siblings: GShard without contests; Autonomy-of-Experts judges by the beginning of each answer, in every call.
Source: Pham et al., 2024, "CompeteSMoE: Effective Training of Sparse Mixture of Experts via Competition",
arXiv:2402.02526.
Differences: a contest is held with a constant chance per layer and call, where the source schedules them. The
loss that teaches the router is a mean over the experts, and in a contest, too, the router's own choice has its balance
loss, as in the source's code.
"""

from __future__ import annotations

from torch import nn

from roster.balance import LoadBalancing
from roster.moe.competing import Competing
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Linear
from roster.select import TopK


def competesmoe(
    num_experts: int = 8, k: int = 2, rate: float = 0.1, distill: float = 1.0, balance: float = 0.01
) -> Layout:
    """Top-k routing with contests.

    Args:
        num_experts: E.
        k: experts per token.
        rate: share of the training calls in which a layer holds a contest.
        distill: weight of the loss that teaches the router.
        balance: weight of the load-balancing loss.
    """

    def block(place: Place) -> nn.Module:
        place.check_choice(k, num_experts)
        router = Router(Linear(place.width, num_experts), TopK(k), [LoadBalancing(balance)])
        return Competing(router, place.make_experts(num_experts, place.share(k)), rate, distill)

    return Layout(block)


RECIPE = Recipe(
    slug="competesmoe",
    title="CompeteSMoE",
    source="Pham et al., 2024, CompeteSMoE, arXiv:2402.02526",
    compose=competesmoe,
    trains="everything",
    batch_invariant=True,
    claim="A router taught by contests among the experts gives a lower loss and richer representations.",
    evidence="docs/results/claims.md",
    kind="moe",
)
