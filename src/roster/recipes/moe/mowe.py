"""MoWE: every word has its own small expert, found by the token id; together they are a memory that costs little.

Equation: y = F(x) + E_r(id)(x), r a fixed table.
Shapes: r [V], with as many ids per expert as makes all equally busy.
Trains: everything together; nothing decides.
Siblings: hash routing is the same with few experts as wide as a dense block.
Source: dos Santos et al., 2023, "Memory Augmented Language Models through Mixture of Word Experts", arXiv:2311.10768.
Differences: the routing vocabulary is the model's own, where the source has a larger one of whole words; 25 experts
of an eighth of the width beside a dense block of the other seven eighths (together four times a dense block), where
the source has tens of thousands; ids are assumed equally frequent unless `counts` says otherwise.
"""

from __future__ import annotations

from torch import nn

from roster.errors import RosterError
from roster.moe.dense import Dense, Sum
from roster.moe.layer import MoE
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import TokenTable
from roster.score.token_id import even_buckets
from roster.select import TopK


def mowe(num_experts: int = 25, parts: int = 8, counts: list[int] | None = None, seed: int = 0) -> Layout:
    """Routing by token id.

    Args:
        num_experts: E.
        parts: an expert is one part of the block's width in so many; a dense block has the others. 1: no dense block.
        counts: how often each token id occurs in the training text, to spread the load.
        seed: of the order of ids that are equally frequent.
    """

    def block(place: Place) -> nn.Module:
        place.check_choice(1, num_experts)
        frequency_V = [1] * place.vocab_size if counts is None else counts
        if len(frequency_V) != place.vocab_size:
            raise RosterError(
                f"recipe {place.recipe!r}: counts has {len(frequency_V)} entries, but the vocabulary {place.vocab_size}"
            )
        table = TokenTable(even_buckets(frequency_V, num_experts, seed), num_experts, f"recipe {place.recipe!r}")
        words = MoE(Router(table, TopK(1)), place.make_experts(num_experts, place.share(parts)))
        if parts == 1:
            return words
        return Sum(Dense(place.make_experts(1, place.hidden - place.share(parts))), words)

    return Layout(block)


RECIPE = Recipe(
    slug="mowe",
    title="Mixture of Word Experts",
    source="dos Santos et al., 2023, Memory Augmented Language Models through MoWE, arXiv:2311.10768",
    compose=mowe,
    trains="everything",
    batch_invariant=True,
    claim="Experts that belong to words remember more facts than a dense or a routed model of equal cost.",
    evidence="docs/results/claims.md",
    kind="moe",
)
