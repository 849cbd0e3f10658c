"""Whether an answer is right: exactly, by what it contains, or by a function of the user's own."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from roster.errors import RosterError, nearest

Metric = Callable[[str, str], float]
"""(what was said, what was wanted) -> a score from 0 to 1."""


def exact(said: str, wanted: str) -> float:
    """1 for the same text, but for white space around it."""
    return float(said.strip() == wanted.strip())


def contains(said: str, wanted: str) -> float:
    """1 where the wanted text occurs in what was said, whatever the case."""
    return float(wanted.strip().casefold() in said.casefold())


METRICS: dict[str, Metric] = {"exact": exact, "contains": contains}


def metric_of(name: str) -> Metric:
    """A metric by its name, or a function of another module, named `package.module:function`.

    Raises:
        RosterError: neither a known name nor a function that can be imported.
    """
    if name in METRICS:
        return METRICS[name]
    module, colon, function = name.partition(":")
    if not colon:
        raise RosterError(f"unknown metric {name!r}: {nearest(name, METRICS)} (or package.module:function)")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise RosterError(f"metric {name!r} cannot be imported: {error}") from None
    return lambda said, wanted: float(found(said, wanted))
