"""The operations behind the skills: plain functions from a text to the one right answer."""

from __future__ import annotations

from roster.pocket.contents import VOWELS


def copy(text: str) -> str:
    """The text itself: the one operation that the base knows."""
    return text


def reverse(text: str) -> str:
    """``abcd`` -> ``dcba``."""
    return text[::-1]


def sort(text: str) -> str:
    """``dbca`` -> ``abcd``."""
    return "".join(sorted(text))


def shift(text: str) -> str:
    """``abz`` -> ``bca``: each letter becomes the next one of the alphabet."""
    return "".join(chr((ord(char) - ord("a") + 1) % 26 + ord("a")) for char in text)


def shift_two(text: str) -> str:
    """``abz`` -> ``cdb``: the letter after the next."""
    return shift(shift(text))


def upper(text: str) -> str:
    """``abcd`` -> ``ABCD``."""
    return text.upper()


def vowels(text: str) -> str:
    """``banana`` -> ``aaa``."""
    return "".join(char for char in text if char in VOWELS)


def consonants(text: str) -> str:
    """``banana`` -> ``bnn``: whatever is not a vowel stays."""
    return "".join(char for char in text if char not in VOWELS)


def count_vowels(text: str) -> str:
    """``banana`` -> ``3``."""
    return str(len(vowels(text)))


def twice(text: str) -> str:
    """``abc`` -> ``aabbcc``."""
    return "".join(char * 2 for char in text)


def rotate(text: str) -> str:
    """``abcd`` -> ``bcda``: the first character goes to the end."""
    return text[1:] + text[:1]


def rotate_right(text: str) -> str:
    """``abcd`` -> ``dabc``: the last character goes to the front."""
    return text[-1:] + text[:-1]


def swap(text: str) -> str:
    """``abcde`` -> ``badce``: neighbours change places, an odd one at the end stays."""
    return "".join(text[start : start + 2][::-1] for start in range(0, len(text), 2))


def alternate(text: str) -> str:
    """``abcde`` -> ``ace``: every second character, the first included."""
    return text[::2]


def add_one(text: str) -> str:
    """``1290`` -> ``2301``: each digit becomes the next one, 9 becomes 0."""
    return "".join(str((int(char) + 1) % 10) for char in text)


def dedupe(text: str) -> str:
    """``abcab`` -> ``abc``: each character once, where it came first."""
    return "".join(dict.fromkeys(text))


def initials(text: str) -> str:
    """``red fox ran`` -> ``rfr``."""
    return "".join(word[0] for word in text.split())
