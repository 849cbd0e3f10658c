"""Recipes of mixtures of feed-forward blocks. One method a file; this list is their part of the catalogue."""

from __future__ import annotations

from roster.recipes.moe import dense, gshard, switch

RECIPES = (
    dense.ACTIVE,
    dense.TOTAL,
    switch.RECIPE,
    gshard.RECIPE,
)
