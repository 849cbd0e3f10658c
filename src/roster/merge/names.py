"""Which layer a tensor belongs to, by its name, whatever the architecture; and what a slice calls it."""

from __future__ import annotations

import re
from collections.abc import Iterable

# The first number that stands alone between dots, as in "model.layers.7.mlp.up_proj.weight" or "transformer.h.7.ln_1".
_LAYER = re.compile(r"^(?P<before>(?:.*?\.)?)(?P<layer>\d+)(?P<after>\..+)$")
_FIRST = re.compile(r"embed|wte|wpe", re.IGNORECASE)
_BUFFER = re.compile(r"rotary_emb\.inv_freq$|\.attn\.(masked_)?bias$")


def layer_of(name: str) -> int | None:
    """7 for "model.layers.7.mlp.up_proj.weight"; None for what lies in no layer."""
    match = _LAYER.match(name)
    return int(match["layer"]) if match else None


def in_layer(name: str, layer: int) -> str:
    """The same tensor of another layer."""
    match = _LAYER.match(name)
    return f"{match['before']}{layer}{match['after']}" if match else name


def depth_of(names: Iterable[str]) -> int:
    """How many layers there are."""
    return 1 + max((layer for layer in map(layer_of, names) if layer is not None), default=-1)


def is_first(name: str) -> bool:
    """Whether a tensor outside the layers stands before them (embeddings) or after (last norm, head)."""
    return _FIRST.search(name) is not None


def is_buffer(name: str) -> bool:
    """What old checkpoints hold and newer ones leave out: computed from the config, never learned."""
    return _BUFFER.search(name) is not None
