"""Ways to lay experts onto devices; each composes to `(traffic, machine) -> roster.place.placement.Found`.

The module that a recipe names says what its method does, and what differs from the source.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from roster.recipes.recipe import Recipe


def exflow(seconds: float = 60.0, starts: int = 12, seed: int = 0) -> Callable[..., Any]:
    """Experts that follow one another on one device; see `roster.place.exflow`.

    Args:
        seconds: for everything.
        starts: of the search.
        seed: of the starts.
    """
    # Imported at use: recipes are listed without SciPy.
    from roster.place.exflow import exflow as place

    return functools.partial(place, seconds=seconds, starts=starts, seed=seed)


def moetuner(seconds: float = 120.0, starts: int = 8, seed: int = 0) -> Callable[..., Any]:
    """Even loads first, then the busiest pair of devices; see `roster.place.moetuner`.

    Args:
        seconds: for everything.
        starts: of the search for devices.
        seed: of the starts.
    """
    from roster.place.moetuner import moetuner as place

    return functools.partial(place, seconds=seconds, starts=starts, seed=seed)


RECIPES = (
    Recipe(
        slug="exflow",
        title="ExFlow",
        source="Yao et al., 2024, Exploiting Inter-Layer Expert Affinity for Accelerating Mixture-of-Experts Model "
        "Inference, arXiv:2401.08383",
        compose=exflow,
        trains="nothing",
        batch_invariant=True,
        claim="On routes that were set apart, placing experts by affinity makes fewer tokens change the device between "
        "layers than contiguous and random placements.",
        evidence="docs/offload.md",
        kind="place",
    ),
    Recipe(
        slug="moetuner",
        title="MoETuner",
        source="Go and Mahajan, 2025, MoETuner: Optimized Mixture of Expert Serving with Balanced Expert Placement and "
        "Token Routing, arXiv:2502.06643",
        compose=moetuner,
        trains="nothing",
        batch_invariant=True,
        claim="On routes that were set apart, the busiest device is less busy than in a contiguous placement, and the "
        "busiest pairs carry less than in random ones.",
        evidence="docs/offload.md",
        kind="place",
    ),
)
