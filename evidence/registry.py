"""Every check under the protocol, by its name. One explicit list; a check is imported when it is asked for."""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path

from evidence.protocol.check import Check
from roster.errors import RosterError, nearest

FOLDER = Path(__file__).parent
MODULES: dict[str, str] = {}
"""Module by the name of a check; the module's `CHECKS` holds it."""


@cache
def find(name: str) -> Check:
    """The check of that name; RosterError with the nearest names when there is none."""
    if name not in MODULES:
        raise RosterError(f"unknown check {name!r}: {nearest(name, MODULES)}")
    checks: tuple[Check, ...] = importlib.import_module(MODULES[name]).CHECKS
    return next(check for check in checks if check.declaration.name == name)
