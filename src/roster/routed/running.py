"""Where the modules that roster adds to a model hang, and how they find the call that they run in."""

from __future__ import annotations

from roster.context import Context, ContextSlot
from roster.errors import RosterError

CHILD = "roster"
"""The name of every module that roster adds to one of the base's."""


def is_added(name: str) -> bool:
    """Whether a tensor of this name belongs to what roster added, and not to the base."""
    return f".{CHILD}." in f".{name}"


def running(slot: ContextSlot) -> Context:
    """The context of the running call; an error when a part of the model was called on its own."""
    if slot.current is None:
        raise RosterError(
            "a routed layer ran outside its model's forward: call the model itself, not one of its parts "
            "(it would answer as the base, without a word)"
        )
    return slot.current
