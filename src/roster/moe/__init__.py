"""moe: mixtures of feed-forward blocks. `layer.py` is the block; other files carry it into transformers and back.

roster.moe.replace(model, "switch-transformer")   # feed-forward blocks become mixtures
roster.moe.adopt(model)                           # an existing mixture can be traced and routed otherwise
roster.moe.export(model, "folder")                # written as an architecture that other engines load
"""

from __future__ import annotations

from typing import Any

from roster.moe.layer import MoE

__all__ = ["MoE", "adopt", "export", "replace"]


def replace(model: Any, recipe: str, **options: Any) -> Any:
    """Turns feed-forward blocks of a transformers model into mixtures; see `roster.moe.replacing.replace`."""
    # Imported at use: the block itself needs neither transformers nor the recipes.
    from roster.moe.replacing import replace

    return replace(model, recipe, **options)


def adopt(model: Any, router: Any = None, **options: Any) -> Any:
    """Makes an existing mixture a routed model; see `roster.moe.adopting.adopt`."""
    from roster.moe.adopting import adopt

    return adopt(model, router, **options)


def export(model: Any, folder: Any, **options: Any) -> Any:
    """Writes a routed model as an existing architecture; see `roster.moe.exporting.export`."""
    from roster.moe.exporting import export

    return export(model, folder, **options)
