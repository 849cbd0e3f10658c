"""What the skills are asked about: random short texts, and the rule that splits them into train, validation and test.

A text belongs to one split for ever, whatever the skill, the wording or the seed: the split is read off a stable
digest of the text itself. The same letters can therefore never be seen in training and asked about in a test, not
even by two different experts. Which answers are right is not decided here but in ``operations``.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Callable, Sequence
from random import Random

SPLITS = ("train", "validation", "test")
VOWELS = "aeiou"
CONSONANTS = "".join(sorted(set(string.ascii_lowercase) - set(VOWELS)))

Draw = Callable[[Random, int], str]
"""``draw(rng, length) -> text``: a random text of ``length`` characters (words, for ``words``)."""


def digest(text: str) -> int:
    """A 64-bit number that depends on ``text`` alone: the same on every machine and in every Python version."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def split_of(text: str) -> str:
    """The split that owns ``text``: of ten buckets eight train, one validates, one tests. Case does not count."""
    bucket = digest(text.strip().lower()) % 10
    return "train" if bucket < 8 else SPLITS[bucket - 7]


def below(rng: Random, n: int) -> int:
    """A random integer in ``[0, n)``, through ``rng.random()``: the one draw Python promises never to change."""
    return int(rng.random() * n)


def pick(rng: Random, options: Sequence[str]) -> str:
    """One of ``options`` (or one character of a string), each as likely as the others."""
    return options[below(rng, len(options))]


def drawn_from(alphabet: str) -> Draw:
    """A draw of independent characters of ``alphabet``."""

    def draw(rng: Random, length: int) -> str:
        return "".join(pick(rng, alphabet) for _ in range(length))

    return draw


letters = drawn_from(string.ascii_lowercase)
digits = drawn_from(string.digits)
capitals = drawn_from(string.ascii_uppercase)
mixed = drawn_from(string.ascii_lowercase + string.digits)


def distinct(rng: Random, length: int) -> str:
    """Lower-case letters, no letter twice."""
    left = list(string.ascii_lowercase)
    return "".join(left.pop(below(rng, len(left))) for _ in range(length))


def voweled(rng: Random, length: int) -> str:
    """Letters of which about two in five are vowels, with at least one vowel and one consonant."""
    while True:
        text = "".join(pick(rng, VOWELS if rng.random() < 0.4 else CONSONANTS) for _ in range(length))
        if set(text) & set(VOWELS) and set(text) - set(VOWELS):
            return text


def repeated(rng: Random, length: int) -> str:
    """Letters from a handful drawn anew for each text, so that some come twice: at least one repeat."""
    while True:
        few = letters(rng, length - 1)
        text = "".join(pick(rng, few) for _ in range(length))
        if 1 < len(set(text)) < length:
            return text


def words(rng: Random, length: int) -> str:
    """``length`` words of two or three letters, one space apart."""
    return " ".join(letters(rng, 2 + below(rng, 2)) for _ in range(length))
