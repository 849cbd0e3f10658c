"""Multilinear MoE (muMoE): soft mixtures of very many experts whose matrices are factors of one tensor.

Equation: a = entmax(W x); h = gelu(sum_e a_e U_e x), y = sum_e a_e V_e h, with U and V in CP or tensor-ring form.
Shapes: gate [E, D]; CP factors [E, R], [D, R], [R, F] and [E, R], [F, R], [R, D].
Trains: everything together.
Siblings: Soft MoE mixes tokens, this mixes matrices; every expert computes for every token, at no cost per expert.
Source: Oldfield et al., 2024, "Multilinear Mixture of Experts: Scalable Expert Specialization through Factorization",
arXiv:2402.12550.
Differences: no batch normalisation before the gate and no expert-specific biases. With rank 0 the rank is the largest
at which factors and gate together have no more parameters than a gated block of `hidden` units.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from roster.errors import RosterError
from roster.moe.layout import Layout, Place
from roster.moe.multilinear import Multilinear, layer
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Linear
from roster.select import All, Entmax


def mmoe_factorized(
    num_experts: int = 32,
    factorisation: Literal["cp", "ring"] = "cp",
    gate: Literal["entmax", "softmax"] = "entmax",
    rank: int = 0,
) -> Layout:
    """Factorised experts.

    Args:
        num_experts: E.
        factorisation: of the experts' tensor, "cp" or "ring".
        gate: "entmax", which leaves most experts out, or "softmax".
        rank: R; 0 for as much as the parameters of a dense block allow.
    """
    if num_experts < 1 or rank < 0:
        raise RosterError(f"recipe 'mmoe-factorized': num_experts={num_experts} and rank={rank} are out of range")

    def block(place: Place) -> nn.Module:
        budget = (3 * place.width * place.hidden - num_experts * place.width) // 2
        up = layer(factorisation, num_experts, place.width, place.hidden, budget, rank)
        down = layer(factorisation, num_experts, place.hidden, place.width, budget, rank)
        select = {"entmax": Entmax, "softmax": All}[gate]()
        return Multilinear(Router(Linear(place.width, num_experts), select), up, down)

    return Layout(block)


RECIPE = Recipe(
    slug="mmoe-factorized",
    title="Multilinear MoE (muMoE)",
    source="Oldfield et al., 2024, Multilinear Mixture of Experts, arXiv:2402.12550",
    compose=mmoe_factorized,
    trains="everything",
    batch_invariant=True,
    claim="At equal parameters accuracy holds, and experts specialise in classes as their number rises.",
    evidence="docs/results/claims.md",
    kind="moe",
)
