"""The old name of `roster.adapters` and of what it shares with `roster.moe`; goes with version 0.3.

`from roster.mixture.attach import attach` and the like still work in 0.2, with a warning that says where to look.
"""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from types import ModuleType
from typing import Any

_MOVED = {
    "attach": ("adapters.attach", "adapters.site", "routed.becoming", "routed.model"),
    "base": ("routed.base",),
    "checkpoint": ("routed.checkpoint",),
    "folder": ("adapters.writing", "adapters.reading", "adapters.manifest", "saving"),
    "generation": ("routed.generation",),
    "history": ("routed.history",),
    "inputs": ("routed.inputs",),
    "kinds": ("folders",),
    "mixing": ("adapters.mixing",),
    "model": ("routed.model",),
    "siblings": ("adapters.siblings",),
    "site": ("adapters.site", "routed.running"),
}


class _Moved(ModuleType):
    """A module that no longer is: what it held is found where it lies now."""

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__"):
            for home in _MOVED[self.__name__.rpartition(".")[2]]:
                module = import_module(f"roster.{home}")
                if hasattr(module, name):
                    message = f"{self.__name__}.{name} is roster.{home}.{name} now; the old name goes with version 0.3"
                    warnings.warn(message, DeprecationWarning, stacklevel=2)
                    return getattr(module, name)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


for _name in _MOVED:
    sys.modules[f"{__name__}.{_name}"] = globals()[_name] = _Moved(f"{__name__}.{_name}")
