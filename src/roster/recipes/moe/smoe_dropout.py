"""SMoE-Dropout: a frozen random router switches on more and more of a block's parts, and any number works afterwards.

Equation: the best k of E by W x + b with W and b random and fixed, weighted by a softmax over them; k grows from half
of E to E.
Shapes: router [E, D], bias [E].
Trains: everything but the router.
Siblings: HyperRouter trains a small input of a random router; fixed k is an ordinary mixture with a frozen router.
Source: Chen et al., 2023, "Sparse MoE as the New Dropout", arXiv:2303.01610.
Differences: none known in the gate, which begins as torch's linear layers do (even within 1 / sqrt(D)). All experts
together are one dense block, into which the source cuts a block, too, so that the whole mixture has a quarter of the
parameters of the others here.
"""

from __future__ import annotations

from torch import nn

from roster.moe.layer import MoE
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Linear, Offset
from roster.select import GrowingTopK


def smoe_dropout(num_experts: int = 8, start: int = 0) -> Layout:
    """A block in parts of which more and more are on.

    Args:
        num_experts: E, which is also k at the end.
        start: k at the beginning; 0 for half of the experts.
    """
    first = start or max(1, num_experts // 2)

    def block(place: Place) -> nn.Module:
        place.check_choice(first, num_experts)
        bound = place.width**-0.5
        score = Offset(Linear(place.width, num_experts), num_experts)
        for tensor in score.parameters():
            nn.init.uniform_(tensor, -bound, bound)
        router = Router(score.requires_grad_(False), GrowingTopK(first, num_experts))
        return MoE(router, place.make_experts(num_experts, place.share(num_experts)))

    return Layout(block, trains=frozenset({"experts", "base"}))


RECIPE = Recipe(
    slug="smoe-dropout",
    title="SMoE-Dropout",
    source="Chen et al., 2023, Sparse MoE as the New Dropout, arXiv:2303.01610",
    compose=smoe_dropout,
    trains="everything",
    batch_invariant=True,
    claim="Under a frozen random router and a growing k, the loss falls with every expert added at inference.",
    evidence="docs/results/claims.md",
    kind="moe",
)
