"""English words to ask about: frequent ones from `wordfreq`, sorted into kinds by `lemminflect`.

Nothing is listed here; the packages are read when a skill is first asked for its items.
"""

from __future__ import annotations

from functools import cache

_CONSIDERED = 5000
"""So many of the most frequent words are looked at."""
_LITTLE_WORDS = 100
"""The most frequent ones ("that", "you") have no kind that anybody would ask about."""
_RARER = 1.5
"""Powers of ten by which a form may be rarer than its word."""


@cache
def frequent() -> tuple[str, ...]:
    """Frequent English words of plain letters, three to nine of them, most frequent first."""
    import wordfreq

    ranked = wordfreq.top_n_list("en", _CONSIDERED)
    return tuple(word for word in ranked if 3 <= len(word) <= 9 and word.isascii() and word.isalpha())


@cache
def of_kind(kind: str) -> tuple[str, ...]:
    """Frequent words that are their own lemma.

    Args:
        kind: ``NOUN`` (and nothing else), ``VERB`` or ``ADJ``.
    """
    import lemminflect  # type: ignore[import-untyped]

    found = []
    for word in frequent()[_LITTLE_WORDS:]:
        lemmas = lemminflect.getAllLemmas(word)
        if word in lemmas.get(kind, ()) and (kind != "NOUN" or len(lemmas) == 1):
            found.append(word)
    return tuple(found)


def inflected(word: str, tag: str) -> str | None:
    """The form of ``word`` with a Penn Treebank tag (``VBD``, ``VBG``, ``JJR``, ...), when there is one that is in use.

    A form much rarer than its word ("peopled") is grammar without use, and nobody's question.
    """
    import lemminflect
    import wordfreq

    forms = lemminflect.getInflection(word, tag=tag, inflect_oov=False)
    if len(forms) != 1 or wordfreq.zipf_frequency(forms[0], "en") < wordfreq.zipf_frequency(word, "en") - _RARER:
        return None
    return str(forms[0])
