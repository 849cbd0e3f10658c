"""Small files: written so that a reader sees the old one or the new one, never half; read with clear errors."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from roster.errors import RosterError


def write_whole(path: Path | str, data: bytes) -> Path:
    """Write `data` under a temporary name beside `path`, then rename it over `path`.

    Args:
        path: the file to write; missing folders are made.
        data: its whole content.

    Returns:
        `path`, as a `Path`.

    Raises:
        OSError: the folder or the file cannot be written; what was at `path` is left as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Same folder, because a rename is atomic only within one file system; opened the plain way, because the
    # files of `tempfile` are readable by their owner alone and a report is meant to be shared.
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        RosterError: no such file, no JSON, or something else than an object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RosterError(f"{str(path)!r} cannot be read: {error}") from None
    except ValueError as error:
        raise RosterError(f"{str(path)!r} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise RosterError(f"{str(path)!r} must hold an object, not a {type(found).__name__}")
    return found


def numbered_lines(path: Path, what: str = "data file") -> dict[int, str]:
    """The lines of a JSONL file that are not blank, by their number, counted from 1.

    Args:
        path: the file.
        what: it is called in errors.

    Raises:
        RosterError: no such file, or no UTF-8.
    """
    if not path.is_file():
        raise RosterError(f"there is no {what} {str(path)!r}")
    try:
        # Not `splitlines`, which also splits at separators that JSON allows inside a string (U+2028, U+0085).
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise RosterError(f"{str(path)!r} is not UTF-8 text: {error}") from None
    return {number: line for number, line in enumerate(lines, 1) if line.strip()}


def object_of(line: str, where: str, kind: str = "an object") -> dict[str, Any]:
    """The JSON object that a line holds.

    Args:
        line: of a JSONL file.
        where: it stands, as errors begin.
        kind: what it must be, in errors.

    Raises:
        RosterError: no JSON, or something else than an object.
    """
    try:
        found = json.loads(line)
    except json.JSONDecodeError as error:
        raise RosterError(f"{where}: not JSON: {error.msg} at column {error.colno}") from None
    if not isinstance(found, dict):
        raise RosterError(f"{where}: must be {kind}, not a {type(found).__name__}")
    return found
