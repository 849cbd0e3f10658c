"""The list of merging methods. One file each; adding one is a file and a line here."""

from __future__ import annotations

from roster.errors import RosterError, nearest
from roster.merge import (
    adamerging,
    atlas,
    breadcrumbs,
    dare,
    della,
    fisher,
    karcher,
    linear,
    model_stock,
    nuslerp,
    passthrough,
    pem_arithmetic,
    regmean,
    sce,
    slerp,
    task_arithmetic,
    ties,
)
from roster.merge.method import Method

_LISTED = (
    linear.METHOD,
    slerp.METHOD,
    nuslerp.METHOD,
    task_arithmetic.METHOD,
    ties.METHOD,
    dare.LINEAR,
    dare.TIES,
    della.LINEAR,
    della.ELECTED,
    breadcrumbs.TENSOR,
    breadcrumbs.TIES,
    breadcrumbs.ROWS,
    model_stock.METHOD,
    karcher.METHOD,
    sce.METHOD,
    passthrough.METHOD,
    fisher.METHOD,
    regmean.METHOD,
    adamerging.METHOD,
    atlas.METHOD,
    pem_arithmetic.METHOD,
)
METHODS: dict[str, Method] = {}
for _method in _LISTED:
    if _method.slug in METHODS:
        raise ValueError(f"two methods are called {_method.slug!r}")
    METHODS[_method.slug] = _method
TRAINED = {"palora": "palora", "pamal": "pamal", "wemoe-merging": "wemoe"}
"""Methods that train whole models, or whose result is a routed one, and the modules of this room that do it."""


def find_method(slug: str) -> Method:
    """By its name.

    Raises:
        RosterError: there is none; names the nearest. Or it is not streamed (`TRAINED`).
    """
    if slug in TRAINED:
        raise RosterError(f"{slug!r} trains, and has no config: give it as --method")
    if slug not in METHODS:
        raise RosterError(f"there is no merging method {slug!r}: {nearest(slug, {*METHODS, *TRAINED})}")
    return METHODS[slug]
