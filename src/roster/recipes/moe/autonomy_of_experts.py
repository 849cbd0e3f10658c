"""Autonomy-of-Experts: no router. Every expert begins its work; those whose activation is strongest go on.

Equation: h_e = P_e x; score_e = ||h_e||; for the best k, by a softmax over their scores,
y = sum of w_e (silu(h_e G_e) * (x U_e)) V_e.
Shapes: P_e [P, D], G_e [P, F], U_e [D, F], V_e [F, D]; the score reads the experts' own P.
Trains: everything together.
Siblings: GShard decides before any expert has seen the token.
Source: Lv et al., 2025, "Autonomy-of-Experts Models", arXiv:2501.13074.
Differences: weights are a softmax over the chosen, in the source's code over all; the beginnings h_e of the chosen are
computed a second time, not kept (P x D multiply-adds per expert); by default the rank is such that a token costs
as much as in a dense block, the choice included; experts are SwiGLU whatever the model's own block is.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from roster.balance import LoadBalancing
from roster.errors import RosterError
from roster.experts import FactoredSwiGLU
from roster.moe.layer import MoE
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import ActivationNorm
from roster.select import TopK


def autonomy_of_experts(num_experts: int = 8, k: int = 2, rank: int | None = None, balance: float = 0.01) -> Layout:
    """Top-k routing by the experts' own activations.

    Args:
        num_experts: E.
        k: experts per token.
        rank: P; by default what makes a token's cost that of a dense block.
        balance: weight of the load-balancing loss.
    """

    def block(place: Place) -> nn.Module:
        place.check_choice(k, num_experts)
        P = _even_rank(place, num_experts) if rank is None else rank
        if P < 1:
            raise RosterError(f"recipe {place.recipe!r}: the experts' gates need a rank of at least 1, not {P}")
        score = ActivationNorm(torch.randn(num_experts, P, place.width) * place.width**-0.5, trains=True)
        experts = FactoredSwiGLU(cast(nn.Parameter, score.projection_ERD), place.share(k))
        return MoE(Router(score, TopK(k), [LoadBalancing(balance)]), experts)

    return Layout(block)


def _even_rank(place: Place, num_experts: int) -> int:
    """The rank at which E beginnings and k ends take the place of the gate matrix of a dense block."""
    D, F = place.width, place.hidden
    rank = D * F // (num_experts * D + F)
    return max(4, rank - rank % 4)  # the grouped matmul wants rows of a multiple of 16 bytes


RECIPE = Recipe(
    slug="autonomy-of-experts",
    title="Autonomy-of-Experts",
    source="Lv et al., 2025, Autonomy-of-Experts Models, arXiv:2501.13074",
    compose=autonomy_of_experts,
    trains="everything",
    batch_invariant=True,
    claim="Experts that choose themselves by the norm of their own activation do as well as a router, or better.",
    evidence="docs/results/claims.md",
    kind="moe",
)
