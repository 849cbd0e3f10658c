"""moe: mixtures of feed-forward blocks. `layer.py` is the block; other files carry it into transformers and back."""

from __future__ import annotations

from roster.moe.layer import MoE

__all__ = ["MoE"]
