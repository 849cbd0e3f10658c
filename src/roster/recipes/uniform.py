"""Uniform mixing: all experts at once, in fixed proportions. The yardstick that routing must beat.

Equation: y = W x + sum_e w_e * scale_e B_e A_e x, by default w_e = 1 / E.
Trains: nothing. It is the mean of the updates B_e A_e, not the product of the means of A and B.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from roster.adapters.mixing import Mixing, Site
from roster.errors import RosterError
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Constant
from roster.select import All


def uniform(weights: Sequence[float] | None = None) -> Mixing:
    """Fixed proportions for all tokens.

    Args:
        weights: one per expert, in the order of the library; by default 1 / E each.
    """

    def router(site: Site) -> Router:
        E = site.num_experts
        if weights is not None and len(weights) != E:
            raise RosterError(f"uniform: {len(weights)} weights were given for {E} experts")
        weights_E = torch.full((E,), 1.0 / E) if weights is None else torch.tensor(list(weights), dtype=torch.float32)
        return Router(Constant(weights_E), All("none"))

    return Mixing(router, at="model", constant="always")


RECIPE = Recipe(
    slug="uniform",
    title="Uniform mixing",
    source="roster",
    compose=uniform,
    trains="nothing",
    batch_invariant=True,
    claim=None,
    evidence="tests/adapters/test_against_peft.py",
)
