"""Duo-LLM: every layer has a small block, a big one, and the choice of neither; random routes first, routers later.

Equation: i = argmax W x over (skip, small, big); y = E_i(x) with E_skip = 0; plus cost * sum_e p_e c_e, c the share of
the big block's width.
Shapes: router [3, D].
Trains: everything, the first part of the training on routes drawn at random.
Siblings: mixture of depths knows only all or nothing. `roster.analyze.oracle` enumerates the routes and finds the
best ones for a budget.
Source: Alizadeh et al., 2024, "Duo-LLM", arXiv:2410.10846.
Differences: the routers are trained together with the blocks in the second part, at a price per hidden unit; the
source freezes the model by then. The straight-through gradient of the router is ours.
"""

from __future__ import annotations

from torch import nn

from roster.balance import ExpectedCost
from roster.experts import Assorted
from roster.moe.layer import MoE
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Linear
from roster.select import HardTop1


def duo_llm(shrink: int = 4, explore: float = 0.5, cost: float = 0.02) -> Layout:
    """Skip, small or big.

    Args:
        shrink: how many times narrower the small block is.
        explore: share of the training on random routes.
        cost: nats of loss that the big block must save to be worth its width.
    """

    def block(place: Place) -> nn.Module:
        router = Router(Linear(place.width, 3), HardTop1(explore), [ExpectedCost((0.0, 1 / shrink, 1.0), cost)])
        small, big = place.make_experts(1, place.share(shrink)), place.make_experts(1, place.hidden)
        return MoE(router, Assorted([None, small, big]))

    return Layout(block, kinds=(0, 1, 2))


RECIPE = Recipe(
    slug="duo-llm",
    title="Duo-LLM",
    source="Alizadeh et al., 2024, Duo-LLM: A Framework for Studying Adaptive Computation, arXiv:2410.10846",
    compose=duo_llm,
    trains="everything",
    batch_invariant=True,
    claim="At every budget the enumerated oracle's loss is at most that of the trained router, and the gain from more "
    "computation tells hard tokens from easy ones.",
    evidence="docs/results/claims.md",
    kind="moe",
)
