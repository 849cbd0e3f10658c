"""Mixture of depths: in every second layer only a share of a row's tokens is worked on; the others pass.

Equation: y = sigmoid(w x) F(x) for the tokens of a row with the largest w x, 0 for the others; plus a * the
cross-entropy of sigmoid(w x) against having been chosen, so that at evaluation w x > 0 can decide, token by token.
Shapes: router [1, D].
Trains: everything together.
Siblings: MindSkip skips attention and trains nothing else; expert choice has many experts, this has one.
Source: Raposo et al., 2024, "Mixture-of-Depths", arXiv:2404.02258.
Differences: feed-forward blocks only, where the source skips attention with them; the weight is the sigmoid of the
score, where the source has the score itself, which starts near zero on small models. Half of the tokens by default,
where the source finds an eighth.
"""

from __future__ import annotations

from torch import nn

from roster.balance import PredictedDuty
from roster.moe.dense import Dense
from roster.moe.layer import MoE
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Linear
from roster.select import TopTokens


def mixture_of_depths(share: float = 0.5, every: int = 2, predict: float = 0.01) -> Layout:
    """Blocks that serve a share of the tokens.

    Args:
        share: of a row's tokens that are served in training.
        every: the last of so many layers is such a block, the others are dense.
        predict: weight of the cross-entropy.
    """

    def block(place: Place) -> nn.Module:
        experts = place.make_experts(1, place.hidden)
        if (place.index + 1) % every:
            return Dense(experts)
        return MoE(Router(Linear(place.width, 1), TopTokens(share), [PredictedDuty(predict)]), experts)

    return Layout(block)


RECIPE = Recipe(
    slug="mixture-of-depths",
    title="Mixture of depths",
    source="Raposo et al., 2024, Mixture-of-Depths, arXiv:2404.02258",
    compose=mixture_of_depths,
    trains="everything",
    batch_invariant=True,
    claim=None,
    evidence="docs/results/moe.md",
    kind="moe",
)
