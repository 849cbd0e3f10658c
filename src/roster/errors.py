"""What users meet: the one error type, the one kind of note, and the helper that suggests what they may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RosterError(ValueError):
    """What a user gave cannot be used; the message says what, where, and what to do about it."""


class RosterNote(UserWarning):
    """What works, but is likely not what the user meant; the command line shows it as one line."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """A closing phrase for an error about an unknown name: the nearest known names, or all of them.

    Args:
        name: what the user typed.
        known: the names that would have been right.
        count: how many suggestions to give at most.

    Returns:
        For example ``"did you mean 'arrow-mbc'?"``; the full list when nothing is close.
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=count, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(each) for each in close) + "?"
    return "known names: " + ", ".join(names) if names else "there are none"
