"""A closer look into mixtures: statistics of weights and behaviour of any routed model; see `roster.analyze.experts`.

Trains: nothing.
Source: Lo et al., 2024, arXiv:2406.18219.
Differences: see `roster.analyze.experts`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from roster.recipes.recipe import Recipe


def look_into_moes() -> Callable[..., Any]:
    """`(model, **inputs) -> one report per mixture`."""
    from roster.analyze.experts import look_into

    return look_into


RECIPE = Recipe(
    slug="look-into-moes",
    title="A closer look into mixtures",
    source="Lo et al., 2024, A Closer Look into Mixture-of-Experts in Large Language Models, arXiv:2406.18219",
    compose=look_into_moes,
    trains="nothing",
    batch_invariant=True,
    claim="Routers prefer the expert whose answer has the larger norm, and experts differ more in deeper layers, the "
    "last excepted.",
    evidence="docs/results/claims.md",
    kind="study",
)
