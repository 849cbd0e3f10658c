"""Where the texts of others are looked for, and reading one of their files. Downloading is `fetching`.

ROSTER_DATA    a folder that has them already: OWNER__REPOSITORY/PATH, each file as it is or with `.gz`; the folder
               above it, with them under `llm-routing`, will do
ROSTER_CACHE   where `roster lm fetch` puts them; ~/.cache/roster unless it is set
"""

from __future__ import annotations

import gzip
import os
from pathlib import Path

from roster.errors import RosterError

DATA, CACHE = "ROSTER_DATA", "ROSTER_CACHE"


def cache() -> Path:
    """The folder of what was downloaded, in the layout of ROSTER_DATA."""
    named = os.environ.get(CACHE)
    if named:
        return Path(named).expanduser() / "lm"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "roster" / "lm"


def roots() -> list[Path]:
    """The folders to look in, first come first served.

    Raises:
        RosterError: ROSTER_DATA names no folder.
    """
    named = os.environ.get(DATA)
    if not named:
        return [cache()]
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise RosterError(f"{DATA} is {named!r}, which is not a folder")
    return [folder, folder / "llm-routing", cache()]


def find(folder: str, path: str) -> Path | None:
    """The file, plain or with `.gz`; None where it is in no place."""
    for root in roots():
        for name in (path, f"{path}.gz"):
            if (found := root / folder / name).is_file():
                return found
    return None


def read(folder: str, path: str) -> bytes:
    """The content of a file, unpacked.

    Raises:
        RosterError: it is nowhere, or cannot be read.
    """
    found = find(folder, path)
    if found is None:
        raise RosterError(f"{folder}/{path} is in none of {', '.join(str(root) for root in roots())}")
    try:
        content = found.read_bytes()
        return gzip.decompress(content) if found.suffix == ".gz" else content
    except (OSError, EOFError) as error:
        raise RosterError(f"{str(found)!r} cannot be read: {error}") from None
