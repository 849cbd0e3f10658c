"""Near-identical adapters of a library: pairs whose updates point the same way, and which of each group to keep.

Nothing is removed here. The cosine is that of the updates s B A (`cluster.similarity`), so that two writings of one
update are the same, and a copy that was trained on for a few steps is near.
"""

from __future__ import annotations

from dataclasses import dataclass

from roster.errors import RosterError
from roster.library.cluster import similarity
from roster.library.folder import Library

ABOVE = 0.99


@dataclass(frozen=True)
class Twin:
    """An adapter that could go.

    Attributes:
        name: of it.
        kept: the one that does nearly the same, and stays.
        cosine: of their updates.
    """

    name: str
    kept: str
    cosine: float


def near_identical(library: Library, above: float = ABOVE) -> list[Twin]:
    """Adapters that could go, each with the one that stays for it.

    The adapter with the fullest card stays, and of equals the first; whoever is near one that stays could go. One that
    is near only to one that goes is left: near is not handed on.

    Args:
        library: the adapters.
        above: the least cosine of two that are called near-identical, above 0 and at most 1.

    Raises:
        RosterError: a limit that is no such number, or an adapter that changes nothing.
    """
    if not 0 < above <= 1:
        raise RosterError(f"the cosine above which adapters are near-identical lies above 0, up to 1; not {above}")
    cosine_NN, names = similarity(library), library.names
    order = sorted(range(len(names)), key=lambda at: (-_fullness(library, names[at]), at))
    stays: list[int] = []
    twins = []
    for at in order:
        near = max(stays, key=lambda each: float(cosine_NN[at, each]), default=None)
        if near is not None and float(cosine_NN[at, near]) >= above - 1e-9:
            twins.append(Twin(names[at], names[near], float(cosine_NN[at, near])))
        else:
            stays.append(at)
    return sorted(twins, key=lambda twin: names.index(twin.name))


def _fullness(library: Library, name: str) -> int:
    card = library[name].card
    return len(card.examples) + bool(card.description)
