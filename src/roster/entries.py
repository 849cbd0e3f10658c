"""What the header of a safetensors file says, as it stands there, for whoever needs names and shapes and no torch.

`roster.header` holds it against the file's size and gives types that torch knows.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from roster.errors import RosterError

_LONGEST = 100_000_000  # what safetensors itself accepts


def read_entries(file: Path) -> tuple[dict[str, Any], dict[str, str], int, int]:
    """(entries by the tensor's name, metadata, where the data begin, the file's size).

    Raises:
        RosterError: not a safetensors file, truncated in its header, or a name twice.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            start = opened.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else _LONGEST + 1
            text = opened.read(length) if length <= min(_LONGEST, size) else b""
    except OSError as error:
        raise RosterError(f"{str(file)!r} cannot be read: {error.strerror}") from None
    if len(text) != length:
        raise RosterError(f"{str(file)!r} cannot be read: it is no safetensors file, or is truncated in its header")
    try:
        entries: dict[str, Any] = json.loads(text, object_pairs_hook=_no_name_twice)
    except (ValueError, UnicodeDecodeError) as error:
        raise RosterError(f"{str(file)!r} cannot be read: its header is damaged: {error}") from None
    return entries, entries.pop("__metadata__", {}), 8 + length, size


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return made
