"""Hyperband: many settings are tried briefly, and those that are ahead for longer; see `roster.search`.

Brackets of successive halving: bracket s begins with n = ceil((s_max + 1) / (s + 1) * eta^s) random settings on
eta^-s of the longest training; at each rung one of eta goes on, for eta times the steps.

Trains: whatever the objective trains.
Siblings: `asha` has one bracket and does not wait; `bohb` draws settings by a model of what was seen (both in
`roster.search.METHODS`).
Source: Li et al., 2018, arXiv:1603.06560.
Differences: Optuna's: brackets are filled side by side, each trial's drawn by a hash of its number with the chance that
the formula gives that bracket, and a trial goes on when it is among the best of those that have come as far.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from roster.recipes.recipe import Recipe
from roster.search import Search, search


def hyperband(eta: int = 3, least: int = 1) -> Callable[..., Any]:
    """`(objective, space, *, trials, most, folder) -> Found`; see `roster.search.search`.

    Args:
        eta: one of so many goes on.
        least: steps after which a trial can be stopped at the earliest.
    """
    return functools.partial(search, Search("random", "hyperband", eta, least))


RECIPE = Recipe(
    slug="hyperband",
    title="Hyperband",
    source="Li et al., 2018, Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization, arXiv:1603.06560",
    compose=hyperband,
    trains="nothing",
    batch_invariant=True,
    claim="At an equal budget of training steps it finds settings of lower loss than training random ones to the end.",
    evidence="docs/results/claims.md",
    kind="study",
)
