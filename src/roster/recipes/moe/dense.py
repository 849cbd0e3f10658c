"""Dense blocks: the yardsticks of every mixture, at equal cost per token and at equal number of parameters."""

from __future__ import annotations

from roster.moe.dense import Dense
from roster.moe.layout import Layout
from roster.recipes.recipe import Recipe


def dense_active() -> Layout:
    """A dense block of the width that one token of a mixture uses."""
    return Layout(lambda place: Dense(place.make_experts(1, place.hidden)), trains=frozenset({"experts", "base"}))


def dense_total(times: int = 4) -> Layout:
    """A dense block with as many parameters as all experts of a mixture together.

    Args:
        times: how many times the width that one token of a mixture uses.
    """
    return Layout(
        lambda place: Dense(place.make_experts(1, times * place.hidden)), trains=frozenset({"experts", "base"})
    )


ACTIVE = Recipe(
    slug="dense-active",
    title="Dense, equal active parameters",
    source="roster",
    compose=dense_active,
    trains="everything",
    batch_invariant=True,
    claim=None,
    evidence="docs/results/moe.md",
    kind="moe",
)
TOTAL = Recipe(
    slug="dense-total",
    title="Dense, equal total parameters",
    source="roster",
    compose=dense_total,
    trains="everything",
    batch_invariant=True,
    claim=None,
    evidence="docs/results/moe.md",
    kind="moe",
)
