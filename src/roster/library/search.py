"""Finding an expert by what its card says: task, description and example prompts, ranked by TF-IDF.

Pieces of words (two to four characters), so that "summary" finds "summarise". No model: what a card does not say is
not found.
"""

from __future__ import annotations

from sklearn.feature_extraction.text import TfidfVectorizer

from roster.errors import RosterError
from roster.library.folder import Library
from roster.prompts import words


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
    cards = [library[name].card for name in library.names]
    described = [" ".join([card.task, card.description, *map(words, card.examples)]) for card in cards]
    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4))
    try:
        known = vectorizer.fit_transform(described)
    except ValueError:  # not one character in all the cards
        return []
    scores = (known @ vectorizer.transform([text]).T).toarray().ravel()
    ranked = sorted(zip(library.names, scores.tolist(), strict=True), key=lambda pair: -pair[1])
    return [(name, score) for name, score in ranked[:count] if score > 0]
