"""Token ids as the pieces of text they stand for, and as marks that can be seen.

Covers the splitting of a decoded text into one piece per token; it draws nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_WINDOW = 16
_UNFINISHED = "\ufffd"
_MARKS = {" ": "␣", "\n": "⏎", "\r": "␍", "\t": "⇥", "\u00a0": "⍽"}


def token_texts(ids: Sequence[int], tokenizer: Any = None) -> list[str]:
    """The piece of text that each token adds.

    A token on its own does not know its text: some tokenizers drop a leading space when they decode one
    token, and one character may be spread over several tokens. So each piece is what decoding *with* the
    token has more than decoding without it, over a short window, which keeps the cost linear.

    Args:
        ids: token ids of one row; negative where the id is unknown.
        tokenizer: anything with transformers' `decode`; None shows ids instead of text.

    Returns:
        One string per id. Of a character spread over tokens, the last one gets the character and the earlier
        ones get U+FFFD.
    """
    if tokenizer is None or any(each < 0 for each in ids):
        return [f"#{each}" if each >= 0 else "?" for each in ids]
    pieces: list[str] = []
    start, shown = 0, ""
    for position in range(len(ids)):
        text = _decode(tokenizer, ids[start : position + 1])
        if text.endswith(_UNFINISHED) and position + 1 < len(ids) and position - start < 2 * _WINDOW:
            pieces.append(_UNFINISHED)
            continue
        # Where a tokenizer rewrites what it had already shown, the token alone is the best that can be had.
        fits = text.startswith(shown)
        pieces.append(text[len(shown) :] if fits else _decode(tokenizer, ids[position : position + 1]))
        shown = text
        if position - start >= _WINDOW:
            start, shown = position, _decode(tokenizer, ids[position : position + 1])
    return pieces


def visible(text: str) -> str:
    """The text with white space as marks and the unprintable as escapes: nothing hides or reorders."""
    return "".join(mark for mark, _ in visible_parts(text))


def visible_parts(text: str) -> list[tuple[str, bool]]:
    """The visible form as (piece, is a mark) pairs, so that marks can be drawn more quietly than text."""
    parts: list[tuple[str, bool]] = []
    for character in text:
        mark = _MARKS.get(character)
        if mark is None and not character.isprintable():
            mark = character.encode("unicode_escape").decode("ascii")
        if mark is None and parts and not parts[-1][1]:
            parts[-1] = (parts[-1][0] + character, False)
        else:
            parts.append((mark or character, mark is not None))
    return parts or [("∅", True)]


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text
