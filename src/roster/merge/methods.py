"""The list of merging methods. One file each; adding one is a file and a line here."""

from __future__ import annotations

from roster.errors import RosterError, nearest
from roster.merge import linear
from roster.merge.method import Method

METHODS: dict[str, Method] = {}
for _method in (linear.METHOD,):
    if _method.slug in METHODS:
        raise ValueError(f"two methods are called {_method.slug!r}")
    METHODS[_method.slug] = _method


def find_method(slug: str) -> Method:
    """By its name.

    Raises:
        RosterError: there is none; names the nearest.
    """
    if slug not in METHODS:
        raise RosterError(f"there is no merging method {slug!r}: {nearest(slug, METHODS)}")
    return METHODS[slug]
