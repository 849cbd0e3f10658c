"""roster: routed experts. Many experts on one job; a router decides who is on duty, and with what weight.

    import roster

    model = roster.load("pocket", experts="adapters/", router="arrow-mbc")
    inputs = model.inputs("reverse: abcd =")
    with roster.trace(model) as routes:
        model.generate(**inputs)
    routes.print()
    model.save_pretrained("my-mixture")
    model = roster.load("my-mixture")

The algebra is in `route.py`, `context.py`, `router.py` and `moe/layer.py`; the methods are in `recipes/`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from roster.api import load, trace
    from roster.context import Context
    from roster.errors import RosterError
    from roster.moe import MoE
    from roster.route import Route, SoftRoute
    from roster.router import Router

__version__ = "0.2.0"
__all__ = ["Context", "MoE", "RosterError", "Route", "Router", "SoftRoute", "load", "trace"]

# Imported at first use, so that the command line can show its help without loading torch and transformers.
_HOMES = {
    "Context": "context",
    "MoE": "moe",
    "Route": "route",
    "Router": "router",
    "RosterError": "errors",
    "SoftRoute": "route",
    "load": "api",
    "trace": "api",
}


_ROOMS = frozenset({"adapters", "analyze", "gateway", "library", "lm", "merge", "moe", "recipes", "train", "weights"})


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"roster.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'roster' has no attribute {name!r}")
    return getattr(import_module(f"roster.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
