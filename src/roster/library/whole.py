"""Writing a file whole or not at all: beside its place first, then moved in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def write_whole(path: Path, write: Callable[[Path], object]) -> Path:
    """Has `write` make the file under a temporary name in the same folder, then renames it.

    When `write` fails, its remains are removed, the old file stays, and the error goes on.
    """
    scratch = path.with_name(f".{path.name}.tmp")
    try:
        write(scratch)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
    return path
