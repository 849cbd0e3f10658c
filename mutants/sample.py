"""Draws the changes that are tried: from every room its share, by hash, so that everyone draws the same.

First a line is drawn, then a place in it, then one of the changes that can be made there, so that operators with many
variants do not weigh more; at most one change a line.
"""

from __future__ import annotations

import ast
import hashlib
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from mutants.changes import Change, changes_of
from mutants.rooms import ROOMS, sources

LEAST = 8
EQUIVALENT = Path(__file__).parent / "equivalent.toml"


def draw(root: Path, count: int, seed: int) -> list[tuple[str, Change]]:
    """(room, change) pairs.

    Args:
        root: of the checkout.
        count: how many in all; at least `LEAST` from every room that has so many places.
        seed: another one, another sample.
    """
    places = {room: _places(root, room, seed) for room in ROOMS}
    drawn: list[tuple[str, Change]] = []
    for room, share in _shares({room: len(each) for room, each in places.items()}, count).items():
        drawn += [(room, change) for change in islice(_one_each(root, places[room], seed), share)]
    return sorted(drawn, key=lambda pair: _rank(seed, pair[1].key))


def set_aside() -> list[dict[str, str]]:
    """Changes that change nothing which could be observed: `file`, `function`, `before`, `after` and `reason`."""
    return list(tomllib.loads(EQUIVALENT.read_text(encoding="utf-8"))["change"])


def is_set_aside(change: Change, source: str) -> bool:
    """Whether a change of this text is in that list."""
    here = (change.path, change.function, change.text)
    known = [each["after"] for each in set_aside() if (each["file"], each["function"], each["before"]) == here]
    return bool(known) and lines_of(source, change.apply(source))[1] in known


def lines_of(source: str, changed: str) -> tuple[str, str]:
    """The first line that differs, before and after."""
    pairs = zip(source.splitlines(), changed.splitlines(), strict=False)
    before, after = next((pair for pair in pairs if pair[0] != pair[1]), ("", ""))
    return before.strip(), after.strip()


def _places(root: Path, room: str, seed: int) -> list[list[Change]]:
    """The changes of every line that has any, in the order in which lines are drawn."""
    lines: dict[tuple[str, int], list[Change]] = defaultdict(list)
    for path in sources(root, room):
        name = str(path.relative_to(root))
        source = path.read_text(encoding="utf-8")
        for change in changes_of(name, source):
            lines[name, change.line].append(change)
    return sorted(lines.values(), key=lambda changes: _rank(seed, changes[0].key))


def _one_each(root: Path, places: list[list[Change]], seed: int) -> Iterator[Change]:
    for changes in places:
        change = _one_of(changes, (root / changes[0].path).read_text(encoding="utf-8"), seed)
        if change is not None:
            yield change


def _one_of(changes: list[Change], source: str, seed: int) -> Change | None:
    spots: dict[tuple[tuple[int, int], str], list[Change]] = defaultdict(list)
    for change in changes:
        spots[change.position, change.family].append(change)
    for spot in sorted(spots, key=lambda spot: _rank(seed, spots[spot][0].key)):
        for change in sorted(spots[spot], key=lambda each: _rank(seed, each.key)):
            if _means_something_else(change, source):
                return change
    return None


def _means_something_else(change: Change, source: str) -> bool:
    try:
        changed = ast.dump(ast.parse(change.apply(source)))
    except (SyntaxError, AttributeError):  # the latter: cosmic-ray cannot replace an exception with a dot in its name
        return False
    return changed != ast.dump(ast.parse(source))


def _shares(sizes: dict[str, int], count: int) -> dict[str, int]:
    """At least `LEAST` each, the rest by the square root of a room's lines: large rooms get more, not all."""
    shares = {room: min(LEAST, size) for room, size in sizes.items()}
    while sum(shares.values()) < count:
        open_rooms = [room for room in sizes if shares[room] < sizes[room]]
        if not open_rooms:
            break
        shares[max(open_rooms, key=lambda room: sizes[room] ** 0.5 / shares[room])] += 1
    return shares


def _rank(seed: int, key: str) -> str:
    return hashlib.sha256(f"{seed}|{key}".encode()).hexdigest()
