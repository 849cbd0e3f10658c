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
    palora,
    pamal,
    passthrough,
    pem_arithmetic,
    regmean,
    sce,
    slerp,
    task_arithmetic,
    ties,
    wemoe,
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
    pamal.METHOD,
    palora.METHOD,
    wemoe.METHOD,
)
METHODS: dict[str, Method] = {}
for _method in _LISTED:
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
