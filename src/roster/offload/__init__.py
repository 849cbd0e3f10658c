"""offload: mixtures of transformers that are larger than the memory, and simulations of what holds their experts.

    model = roster.load("mixtral-folder", max_memory="8GiB")   # the whole model's answers, bit by bit
    print(model.offload.statistics.text())                     # hits, misses, bytes, stalls of every layer

Read in this order: `layout.py` (where an expert's bytes lie), `residency.py` (who is held), `engine.py` (slots and
threads), `experts.py` (a layer's forward), `loading.py`. Policies and predictors are a file each; a *strategy*
(`strategy.py`) is one of each, and the published ones are recipes of kind "offload". `recorder.py` records
routes (`traces.py`), `simulator.py` replays them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from roster.offload.loading import load
    from roster.offload.recorder import recording
    from roster.offload.simulator import simulate
    from roster.offload.traces import Routes, read_routes

__all__ = ["Routes", "load", "read_routes", "recording", "simulate"]

_HOMES = {
    "Routes": "traces",
    "load": "loading",
    "read_routes": "traces",
    "recording": "recorder",
    "simulate": "simulator",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'roster.offload' has no attribute {name!r}")
    return getattr(import_module(f"roster.offload.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
