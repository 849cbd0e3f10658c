"""How small: what `--to` says, as a number of experts a layer."""

from __future__ import annotations

import re

from roster.compress.mixture import PARTS, Mixture
from roster.errors import RosterError
from roster.weights import parse_size


def experts_of(to: str, mixture: Mixture) -> int:
    """Experts that every layer keeps.

    Args:
        to: "4" (experts), "50%" (of the experts), or "20GB" (of the file).
        mixture: to be made smaller.

    Raises:
        RosterError: no size, none that leaves an expert, or one that leaves all of them.
    """
    E = mixture.experts
    share = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", to)
    if share is not None:
        kept = round(E * float(share[1]) / 100)
    elif re.fullmatch(r"\s*\d+\s*", to):
        kept = int(to)
    else:
        kept = _within(parse_size(to), mixture)
    if not 1 <= kept < E:
        raise RosterError(f"--to {to!r} leaves {kept} of {E} experts a layer: it must leave some, and take some away")
    return kept


def share_of(to: str) -> float:
    """The share of weights that are kept, for "50%"."""
    share = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", to)
    if share is None or not 0 < float(share[1]) < 100:
        raise RosterError(f"--to {to!r}: this method keeps a share of the weights; write 50% or 2:4")
    return float(share[1]) / 100


def _within(size: int, mixture: Mixture) -> int:
    rest = sum(spec.nbytes for spec in mixture.others().values())
    one = sum(mixture.matrix(layer, 0, part).spec.nbytes for layer in mixture.layers for part in PARTS) + sum(
        mixture.router(layer).spec.nbytes // mixture.experts for layer in mixture.layers
    )
    kept = min((size - rest) // one, mixture.experts - 1)
    if kept < 1:
        raise RosterError(
            f"{mixture.source.name!r} cannot be {size:,} bytes: {rest:,} are outside the experts, and one expert "
            f"a layer takes {one:,}"
        )
    return int(kept)
