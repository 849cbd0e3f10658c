"""moe: mixtures of feed-forward blocks. `layer.py` is the block; other files carry it into transformers and back.

roster.moe.replace(model, "switch-transformer")   # feed-forward blocks become mixtures
roster.moe.adopt(model)                           # an existing mixture can be traced and routed otherwise
roster.moe.export(model, "folder")                # written as an architecture that other engines load
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from roster.moe.adopting import adopt
    from roster.moe.exporting import export
    from roster.moe.layer import MoE
    from roster.moe.replacing import replace

__all__ = ["MoE", "adopt", "export", "replace"]

# Imported at first use: the block itself needs neither transformers nor the recipes, which are built of it.
_HOMES = {"MoE": "layer", "adopt": "adopting", "export": "exporting", "replace": "replacing"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'roster.moe' has no attribute {name!r}")
    return getattr(import_module(f"roster.moe.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
