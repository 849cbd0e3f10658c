"""KV caches of several prompts joined into one, rows taken out of it, and columns that nobody needs any more.

Rows are padded on the left, so that all of them go on at the same column; masks tell padding from tokens. Layers that a
router adds to a cache to remember things (`roster.routed.history`) are joined as the model's own are.

Shape legend: B rows, H heads, L columns, D width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.cache_utils import Cache, DynamicLayer

from roster.errors import RosterError


def joined(one: Cache, other: Cache) -> Cache:
    """One cache with the rows of both, the first's first; both are used up.

    Raises:
        RosterError: a layer that does not grow by appending, or caches of different models.
    """
    if len(one.layers) != len(other.layers):
        raise RosterError(f"caches of {len(one.layers)} and {len(other.layers)} layers cannot be joined")
    for mine, theirs in zip(map(_grown, one.layers), map(_grown, other.layers), strict=True):
        L = max(mine.keys.shape[2], theirs.keys.shape[2])
        mine.keys = torch.cat([_widened(mine.keys, L), _widened(theirs.keys, L)])
        mine.values = torch.cat([_widened(mine.values, L), _widened(theirs.values, L)])
    return one


def kept(cache: Cache, rows: Sequence[int], columns: int) -> Cache:
    """The cache with these rows only, and only its last columns."""
    for layer in map(_grown, cache.layers):
        index = torch.tensor(list(rows), device=layer.keys.device)
        start = layer.keys.shape[2] - columns
        layer.keys = layer.keys[index, :, start:]
        layer.values = layer.values[index, :, start:]
    return cache


def _grown(layer: object) -> Any:
    """A layer of keys and values, as many columns as tokens."""
    if type(layer) is not DynamicLayer or not layer.is_initialized:
        raise RosterError(f"a cache layer of type {type(layer).__name__} cannot be joined with another")
    return layer


def _widened(states_BHLD: Tensor, columns: int) -> Tensor:
    """The same, with zeros before it."""
    return F.pad(states_BHLD, (0, 0, columns - states_BHLD.shape[2], 0))
