"""Hash routing: the token id says which expert serves; nothing is learned and nothing balanced.

Equation: y = E_h(id)(x), h a fixed table.
Shapes: h [V], drawn once per layer.
Trains: everything but the routes.
Siblings: mowe has many more and smaller experts beside a dense block; random routing does not even look at the id.
Source: Roller et al., 2021, "Hash Layers For Large Sparse Models", arXiv:2106.04426.
Differences: the balanced hash of the source when `counts` are given, else its random hash with equally many ids per
expert.
"""

from __future__ import annotations

from torch import nn

from roster.errors import RosterError
from roster.moe.layer import MoE
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import TokenTable
from roster.score.token_id import even_buckets
from roster.select import TopK


def hash_routing(num_experts: int = 4, counts: list[int] | None = None, seed: int = 0) -> Layout:
    """Routing by token id.

    Args:
        num_experts: E.
        counts: how often each token id occurs in the training text, to spread the load.
        seed: of the table; every layer draws its own.
    """

    def block(place: Place) -> nn.Module:
        place.check_choice(1, num_experts)
        frequency_V = [1] * place.vocab_size if counts is None else counts
        if len(frequency_V) != place.vocab_size:
            raise RosterError(
                f"recipe {place.recipe!r}: counts has {len(frequency_V)} entries, but the vocabulary {place.vocab_size}"
            )
        expert_V = even_buckets(frequency_V, num_experts, seed + place.index)
        table = TokenTable(expert_V, num_experts, f"recipe {place.recipe!r}")
        return MoE(Router(table, TopK(1)), place.make_experts(num_experts, place.hidden))

    return Layout(block)


RECIPE = Recipe(
    slug="hash-routing",
    title="Hash routing",
    source="Roller et al., 2021, Hash Layers For Large Sparse Models, arXiv:2106.04426",
    compose=hash_routing,
    trains="everything",
    batch_invariant=True,
    claim=None,
    evidence="docs/results/moe.md",
    kind="moe",
)
