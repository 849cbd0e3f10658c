"""What is pinned: of each collection the repository, commit, licence, files and hashes (sources.json)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from roster.errors import RosterError, nearest

PARTS = {"zeroeval": ("zeroeval-crux", "zeroeval-gsm8k")}
"""Collections that are made of others."""


@dataclass(frozen=True)
class Pinned:
    """One file of a repository; `sha256` is None where only the texts read from it have a known hash."""

    path: str
    sha256: str | None
    size: int | None


@dataclass(frozen=True)
class Source:
    """One collection of texts.

    Attributes:
        name: what `roster lm fetch` calls it.
        repository, commit: "owner/name" on GitHub, and the commit.
        licence: its name and holder.
        folder: of the package, with the figures.
        files: what is downloaded.
        texts: sha256 of the texts in the order of the figures, see `roster.lm.data.texts.digest`.
    """

    name: str
    repository: str
    commit: str
    licence: str
    folder: str
    files: tuple[Pinned, ...]
    texts: str

    @property
    def folder_of_texts(self) -> str:
        """Where its files lie in ROSTER_DATA and in the cache."""
        return self.repository.replace("/", "__")


@cache
def sources() -> dict[str, Source]:
    """All collections by name."""
    read = json.loads((files("roster.lm.data") / "sources.json").read_text(encoding="utf-8"))
    return {
        name: Source(
            name=name,
            repository=each["repository"],
            commit=each["commit"],
            licence=each["licence"],
            folder=each["folder"],
            files=tuple(Pinned(path, at.get("sha256"), at.get("bytes")) for path, at in each["files"].items()),
            texts=each["texts"],
        )
        for name, each in read.items()
    }


def asked(name: str) -> list[Source]:
    """The sources behind a name of recorded data.

    Raises:
        RosterError: there are none, with the nearest names.
    """
    names = PARTS.get(name, (name,))
    if names[0] not in sources():
        raise RosterError(f"no recorded data are called {name!r}: {nearest(name, [*sources(), *PARTS])}")
    return [sources()[each] for each in names]
