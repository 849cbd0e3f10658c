"""Finding an expert by what its card says: task, description and example prompts, ranked by TF-IDF (`shelf.words`).

No model: what a card does not say is not found. The same answers come from a folder's index, without reading weights
(`roster.shelf.index.Index.search`).
"""

from __future__ import annotations

from roster.errors import RosterError
from roster.library.folder import Library
from roster.shelf.contents import said
from roster.shelf.words import cosines, pieces


def find(library: Library, text: str, count: int = 5) -> list[tuple[str, float]]:
    """The experts whose task, description and examples are most like a text.

    Args:
        library: experts with cards.
        text: a task in words, or a prompt.
        count: how many at most.

    Returns:
        (name, TF-IDF cosine), best first; experts with nothing in common are left out.

    Raises:
        RosterError: a count below 1.
    """
    if count < 1:
        raise RosterError(f"the number of experts to find must be at least 1, not {count}")
    known = [pieces(said(library[name].card)) for name in library.names]
    ranked = sorted(zip(library.names, cosines(known, pieces(text)).tolist(), strict=True), key=lambda pair: -pair[1])
    return [(name, score) for name, score in ranked[:count] if score > 0]
