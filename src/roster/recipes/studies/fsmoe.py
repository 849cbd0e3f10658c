"""FSMoE: chunks of a mixture's rows and slices of gradients, so that links and processors work at once; see
`roster.place.overlap`.

Trains: nothing.
Source: Pan et al., 2025, arXiv:2501.10714.
Differences: see `roster.place.overlap`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from roster.recipes.recipe import Recipe


def fsmoe() -> Callable[..., Any]:
    """`(layers, lines) -> schedule`: chunks of each layer, and the gradients to send meanwhile."""
    from roster.place.overlap import plan

    return plan


RECIPE = Recipe(
    slug="fsmoe",
    title="FSMoE",
    source="Pan et al., 2025, FSMoE: A Flexible and Scalable Training System for Sparse Mixture-of-Experts Models, "
    "arXiv:2501.10714",
    compose=fsmoe,
    trains="nothing",
    batch_invariant=True,
    claim="With degrees chosen layer by layer and gradients sent in the gaps, a step takes less time than with one "
    "degree for all and gradients at the end.",
    evidence="docs/training.md",
    kind="study",
)
