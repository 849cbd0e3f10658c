"""Per-token memory across decode steps, kept as further layers of the model's own KV cache.

transformers reorders a cache for beam search, crops it after a rejected draft, repeats and selects rows, resets and
offloads it, always layer by layer. What a router must remember is therefore stored as one more layer: it follows
along without a line of code here. The second cache of a two-pass recipe is made of such layers too, so the pass
that only looks at the base never writes into the cache of the pass that answers.

Shape legend: B batch rows, S tokens of this call, L tokens so far, D width of what is remembered.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache, DynamicLayer, StaticLayer

from roster.errors import RosterError


class CacheHistory:
    """Implements `roster.context.History` on a transformers `Cache`; made by `history_of`, one per cache."""

    def __init__(self, cache: Cache, num_layers: int, first_pass: bool):
        make_layer = getattr(cache, "layer_class_to_replicate", None)
        if make_layer is not None:
            # Such a cache grows by appending; the model's own layers must come before ours.
            while len(cache.layers) < num_layers:
                cache.layers.append(make_layer())
        self.cache = cache
        self.entries: dict[str, CacheLayerMixin] = {}
        self.first_pass: Cache | None = None
        if first_pass:
            self.first_pass = Cache(layers=[copy.deepcopy(layer) for layer in cache.layers])
            cache.layers.extend(self.first_pass.layers)

    @property
    def length(self) -> int | Tensor:
        """Tokens that earlier calls have put into the cache."""
        return self.cache.get_seq_length()

    def append(self, key: str, value_BSD: Tensor) -> Tensor:
        """Adds this call's values; returns all so far [B, L, D], zero where a static cache is still empty."""
        keys_B1LD, _ = self._layer(key).update(value_BSD[:, None], value_BSD[:, None, :, :0])
        all_BLD: Tensor = keys_B1LD[:, 0]
        return all_BLD

    def latest(self, key: str, make: Callable[[], Tensor]) -> Tensor:
        """What was remembered of a row's last token, [B, D]; `make` is asked for it when the cache is empty."""
        layer = self._layer(key)
        if not layer.is_initialized:
            return make()
        length = layer.get_seq_length()
        if isinstance(length, Tensor):
            # A static cache that was reset is initialised and empty; finding out must not wait for the device.
            last = layer.keys[:, 0].index_select(1, (length.reshape(1) - 1).clamp_min(0).to(layer.keys.device))[:, 0]
            return torch.where(length > 0, last, make())
        return layer.keys[:, 0, -1] if length else make()

    def _layer(self, key: str) -> Any:
        if key not in self.entries:
            static = next((each for each in self.cache.layers if isinstance(each, StaticLayer)), None)
            self.entries[key] = DynamicLayer() if static is None else StaticLayer(static.max_cache_len)
            self.cache.layers.append(self.entries[key])
        return self.entries[key]


def new_cache(config: Any) -> Cache:
    """The cache that transformers itself would begin with."""
    return DynamicCache(config=config)


def history_of(cache: Cache, num_layers: int, first_pass: bool) -> CacheHistory:
    """The history that lives in this cache; begins one in a cache that nobody has written to yet.

    Args:
        cache: the model's KV cache.
        num_layers: how many layers the model itself has.
        first_pass: whether a second set of layers is needed for a first pass.

    Raises:
        RosterError: when tokens are in the cache that no history saw.
    """
    history = getattr(cache, "roster_history", None)
    if history is None:
        if not isinstance(cache, Cache) or not hasattr(cache, "layers"):
            raise RosterError(f"this recipe remembers across decode steps, which {type(cache).__name__} cannot hold")
        length = cache.get_seq_length()
        if not isinstance(length, Tensor) and length > 0:
            raise RosterError(
                f"the cache already holds {length} tokens that this recipe has not seen; "
                "start with an empty cache, or without one"
            )
        history = CacheHistory(cache, num_layers, first_pass)
        cache.roster_history = history  # type: ignore[attr-defined]  # ours, on their object
    return history
