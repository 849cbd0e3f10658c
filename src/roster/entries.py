"""What a safetensors file says of its tensors: names, types, shapes and places, checked against the file's size.

Read without torch, and no tensor is read, so that a damaged or truncated file is known before any work starts, and a
thousand of them are looked through in a moment. `roster.header` says the same in torch's types.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roster.errors import RosterError

SIZES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
    "C64": 8,
}
"""Bytes of one number, by the name that the format has for its type."""
_LONGEST = 100_000_000  # what safetensors itself accepts


@dataclass(frozen=True)
class Entry:
    """One tensor of a file.

    Attributes:
        code: its type, a key of `SIZES`.
        shape: of it.
        offset: of its first byte in the file.
    """

    code: str
    shape: tuple[int, ...]
    offset: int

    @property
    def numel(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """How many bytes its values take."""
        return self.numel * SIZES[self.code]


def read_entries(file: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """The tensors of one file by name, and its metadata.

    Raises:
        RosterError: not a safetensors file, truncated, a name twice, or a tensor whose bytes do not match its shape.
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
        told: dict[str, Any] = json.loads(text, object_pairs_hook=_no_name_twice)
    except (ValueError, UnicodeDecodeError) as error:
        raise RosterError(f"{str(file)!r} cannot be read: its header is damaged: {error}") from None
    metadata = told.pop("__metadata__", {})
    entries = {name: _entry(file, name, each, 8 + length) for name, each in told.items()}
    needed = max((entry.offset + entry.nbytes for entry in entries.values()), default=8 + length)
    if needed != size:
        kind = "truncated" if size < needed else "longer than its header says"
        raise RosterError(
            f"{str(file)!r} cannot be read: it is {kind}: {size:,} bytes, its header says {needed:,}; fetch it again"
        )
    return entries, metadata


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return made


def _entry(file: Path, name: str, told: Any, data: int) -> Entry:
    try:
        code, shape, (start, stop) = told["dtype"], tuple(told["shape"]), told["data_offsets"]
        entry = Entry(code, shape, data + start)
        fits = stop - start == entry.nbytes and start >= 0
    except (KeyError, TypeError, ValueError):
        raise RosterError(f"{str(file)!r}: tensor {name!r} has an entry that roster does not read: {told}") from None
    if not fits:
        what = f"tensor {name!r} is {code} {list(shape)}"
        raise RosterError(f"{str(file)!r}: {what}, but its bytes are {start} to {stop}")
    return entry
