"""Colours and letters for experts, told apart without relying on hue.

The first eight colours are those of Okabe and Ito, which stay apart under the common forms of colour
blindness; more than eight such colours do not exist. So the second and third eight repeat the idea with other
hues and each eight has its own line style, and every expert has a letter that is unique: hue is a help, never
the only sign.
"""

from __future__ import annotations

from string import ascii_uppercase
from typing import NamedTuple


class Mark(NamedTuple):
    """How one expert is drawn."""

    letter: str
    rgb: tuple[int, int, int]
    line: str
    """A CSS border style."""


_OKABE_ITO = "e69f00 56b4e9 009e73 f0e442 0072b2 d55e00 cc79a7 8a8a8a"
"""Okabe and Ito (2008), with grey for their black, which could not be seen in dark mode."""
_TOL_MUTED = "7a5cd6 88ccee 44aa99 117733 999933 ddcc77 cc6677 aa4499"
"""Paul Tol's muted scheme, its indigo lightened for the same reason."""
_TOL_LIGHT = "77aadd ee8866 eedd88 ffaabb 99ddff 44bb99 bbcc33 aaaa00"
"""Paul Tol's light scheme."""
_HEX = " ".join((_OKABE_ITO, _TOL_MUTED, _TOL_LIGHT)).split()
_LINES = ("solid", "dashed", "dotted", "double")


def mark_of(index: int) -> Mark:
    """The mark of the expert with this index: A to Z, then AA, AB, ...; colours repeat after 24."""
    code = _HEX[index % len(_HEX)]
    red, green, blue = (int(code[at : at + 2], 16) for at in (0, 2, 4))
    return Mark(_letters(index), (red, green, blue), _LINES[index // 8 % len(_LINES)])


def _letters(index: int) -> str:
    letters = ""
    while index >= 0:
        index, rest = divmod(index, 26)
        letters = ascii_uppercase[rest] + letters
        index -= 1
    return letters
