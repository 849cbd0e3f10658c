"""PERFT: a mixture that exists stays as it is, and gets low-rank adapters beside its experts, routed too.

Equation: y = sum_e g_e E_e(x) + sum_j h_j scale B_j A_j x, with h from a router of their own ("routed"), h = g, one
adapter per expert ("embedded"), h_j = 1 ("dense"), or one adapter with h = 1 ("shared").
Shapes: A_j [r, D], B_j [D, r] at every block; their router [M, D].
Trains: adapters and their router; the mixture, its router and all else are frozen.
Siblings: adapters on single layers are recipes of the kind "mixture", and know nothing of a block's experts.
Source: Liu et al., 2024, "PERFT: Parameter-Efficient Routed Fine-Tuning for Mixture-of-Expert Model", arXiv:2411.08212.
Differences: for a mixture that transformers knows, `roster.moe.adopt(model, "perft")`, whose own router goes on
deciding as it did, as roster's parts; where roster has no parts for it, adopt says so. `replace` puts adapters beside a
fresh mixture, with `start="dense"` beside copies of the dense block. Without dropout in front of the adapters; traces
show the routes of the mixture, not those of the adapters.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from roster.errors import RosterError
from roster.moe.beside_experts import BesideExperts, fresh_adapters
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Constant, Linear
from roster.select import All, TopK

Form = Literal["routed", "embedded", "dense", "shared"]


def perft(
    form: Form = "routed",
    adapters: int = 4,
    active: int = 2,
    rank: int = 8,
    alpha: float = 16.0,
    num_experts: int = 4,
    k: int = 2,
) -> Layout:
    """Adapters beside experts.

    Args:
        form: who says which adapters serve a token: a router of their own, the mixture's ("embedded"), or nobody: all
            do ("dense"), or there is one ("shared").
        adapters: M; as many as experts where the form is "embedded", one where it is "shared".
        active: adapters per token where they are "routed".
        rank, alpha: of every adapter, scaled by alpha / rank.
        num_experts, k: of the mixture, and experts per token.
    """
    if min(adapters, active, rank) < 1:
        raise RosterError(f"perft: adapters={adapters}, active={active} and rank={rank} must be at least 1")

    def block(place: Place) -> nn.Module:
        existing: Router | None = getattr(place, "own", None)
        if existing is None:
            place.check_choice(k, num_experts)
        router = Router(Linear(place.width, num_experts), TopK(k)) if existing is None else existing
        experts = place.make_experts(num_experts, place.hidden)
        count = {"embedded": num_experts, "shared": 1}.get(form, adapters)
        own = None
        if form == "routed":
            own = Router(Linear(place.width, count), TopK(active), site="adapters")
        elif form != "embedded":
            own = Router(Constant(torch.ones(count)), All("none"), site="adapters")
        return BesideExperts(router, experts, fresh_adapters(count, place.width, rank, alpha), own)

    return Layout(block, trains=frozenset({"router", "experts"}))


RECIPE = Recipe(
    slug="perft",
    title="PERFT",
    source="Liu et al., 2024, PERFT: Parameter-Efficient Routed Fine-Tuning for Mixture-of-Expert Model, "
    "arXiv:2411.08212",
    compose=perft,
    trains="router and experts",
    batch_invariant=True,
    claim="Routed adapters beside frozen experts beat adapters that always serve, at as many trained parameters.",
    evidence="tests/recipes/test_named_skills.py",
    kind="moe",
)
