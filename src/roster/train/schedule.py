"""Telling the parts of a model how far its training has come.

Some methods change while they train: a bias moves against the load, a temperature falls, more experts join, a router
freezes. Such a part has a method `advance(progress)`, called once after every optimiser step with the share of the
training that is done, in (0, 1]; what it must remember it keeps in buffers, so that a resumed run goes on where it
stopped.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn


def advance(model: nn.Module, progress: float) -> None:
    """Calls `advance(progress)` on every part that has it."""
    for module in model.modules():
        step: Callable[[float], None] | None = getattr(module, "advance", None)
        if step is not None:
            step(progress)
