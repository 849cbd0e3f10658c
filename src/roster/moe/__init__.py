"""moe: mixtures of feed-forward blocks. `layer.py` is the block; other files carry it into transformers and back.

roster.moe.replace(model, "switch-transformer")   # feed-forward blocks become mixtures
"""

from __future__ import annotations

from typing import Any

from roster.moe.layer import MoE

__all__ = ["MoE", "replace"]


def replace(model: Any, recipe: str, **options: Any) -> Any:
    """Turns feed-forward blocks of a transformers model into mixtures; see `roster.moe.replacing.replace`."""
    # Imported at use: the block itself needs neither transformers nor the recipes.
    from roster.moe.replacing import replace

    return replace(model, recipe, **options)
