"""MaskMoE: a rare token sees one expert, which therefore learns it; a frequent one sees several and may choose.

Equation: p = softmax(W x + m_id), m_id = -inf for the experts hidden from the token id; y = p_i E_i(x), i = argmax p;
plus the load-balancing loss.
Shapes: router [E, D]; visibility [V, E], drawn once per layer.
Trains: everything together; the visibility is fixed.
Siblings: hash routing shows every token one expert; Switch shows all of them.
Source: Su et al., 2024, "MaskMoE", arXiv:2407.09816.
Differences: without `counts`, low ids are taken for the frequent ones, as vocabularies made by merging pairs have them.
The source has a shared expert beside these, which is left out.
"""

from __future__ import annotations

import torch
from torch import nn

from roster.balance import LoadBalancing
from roster.errors import RosterError
from roster.moe.layer import MoE
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import HiddenFrom, Linear
from roster.score.hidden_from import visible_experts
from roster.select import TopK


def maskmoe(
    num_experts: int = 4,
    visible: int = 2,
    frequent: float = 0.4,
    balance: float = 0.01,
    counts: list[int] | None = None,
    seed: int = 0,
) -> Layout:
    """Top-1 routing among the experts that a token id sees.

    Args:
        num_experts: E.
        visible: experts that a frequent token id sees; a rare one sees 1.
        frequent: share of the vocabulary that is frequent.
        balance: weight of the load-balancing loss.
        counts: how often each token id occurs in the training text.
        seed: of the visibility; every layer draws its own.
    """
    if not 0.0 <= frequent <= 1.0:
        raise RosterError(f"recipe 'maskmoe': frequent={frequent} must be in 0..1")

    def block(place: Place) -> nn.Module:
        place.check_choice(visible, num_experts)
        if counts is not None and len(counts) != place.vocab_size:
            raise RosterError(
                f"recipe {place.recipe!r}: counts has {len(counts)} entries, but the vocabulary {place.vocab_size}"
            )
        order = range(place.vocab_size) if counts is None else sorted(range(len(counts)), key=lambda v: -counts[v])
        seen_V = torch.ones(place.vocab_size, dtype=torch.int64)
        seen_V[list(order)[: round(frequent * place.vocab_size)]] = visible
        visible_VE = visible_experts(seen_V.tolist(), num_experts, seed + place.index)
        score = HiddenFrom(Linear(place.width, num_experts), visible_VE, f"recipe {place.recipe!r}")
        router = Router(score, TopK(1, "all"), [LoadBalancing(balance)])
        return MoE(router, place.make_experts(num_experts, place.hidden))

    return Layout(block)


RECIPE = Recipe(
    slug="maskmoe",
    title="MaskMoE",
    source="Su et al., 2024, MaskMoE: Boosting Token-Level Learning via Routing Mask, arXiv:2407.09816",
    compose=maskmoe,
    trains="everything",
    batch_invariant=True,
    claim="The loss on rare tokens is below that of an unmasked router, and that on frequent ones not above that of "
    "hash routing.",
    evidence="docs/results/claims.md",
    kind="moe",
)
