"""Which layer a site belongs to, read from its dotted name."""

from __future__ import annotations

from collections.abc import Iterable


def layer_of(site: str) -> int | None:
    """The layer index in a dotted module name.

    Args:
        site: such as ``"model.layers.3.mlp.up_proj"``.

    Returns:
        The first part that is a whole number (3 in the example), or None where there is none.
    """
    return next((int(part) for part in site.split(".") if part.isdecimal()), None)


def group_by_layer(sites: Iterable[str]) -> dict[str, list[str]]:
    """Sites put together by layer, in the order in which each layer first appears.

    Args:
        sites: dotted module names.

    Returns:
        Label to sites. The label is ``"layer 3"``; where two stacks of one model both have a layer 3 (an
        encoder and a decoder) it is the name up to the index, and a site with no index stays alone under its
        own name.
    """
    by_stem: dict[str, list[str]] = {}
    for site in sites:
        by_stem.setdefault(_stem(site), []).append(site)
    indices = [layer_of(stem) for stem in by_stem]
    grouped = {}
    for (stem, members), index in zip(by_stem.items(), indices, strict=True):
        alone = index is not None and indices.count(index) == 1
        grouped[f"layer {index}" if alone else stem] = members
    return grouped


def _stem(site: str) -> str:
    """The name up to and with its layer index; the whole name where it has none."""
    parts = site.split(".")
    for position, part in enumerate(parts):
        if part.isdecimal():
            return ".".join(parts[: position + 1])
    return site
