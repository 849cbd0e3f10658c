"""The header of a safetensors file: names, types, shapes and places of its tensors, checked against the file's size.

No tensor is read here, so a damaged or truncated file is known before any work starts.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from roster.errors import RosterError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}
CODES = {dtype: code for code, dtype in DTYPES.items()}
_LONGEST = 100_000_000  # what safetensors itself accepts


@dataclass(frozen=True)
class Spec:
    """What a tensor is, without its values."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """How many bytes its values take."""
        return self.numel * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')} {list(self.shape)}"


@dataclass(frozen=True)
class Place:
    """Where a tensor's bytes lie."""

    spec: Spec
    file: Path
    offset: int


def read_header(file: Path) -> tuple[dict[str, Place], dict[str, str]]:
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
        entries: dict[str, Any] = json.loads(text, object_pairs_hook=_no_name_twice)
    except (ValueError, UnicodeDecodeError) as error:
        raise RosterError(f"{str(file)!r} cannot be read: its header is damaged: {error}") from None
    metadata = entries.pop("__metadata__", {})
    tensors = {name: _place(file, name, entry, 8 + length) for name, entry in entries.items()}
    needed = max((place.offset + place.spec.nbytes for place in tensors.values()), default=8 + length)
    if needed != size:
        kind = "truncated" if size < needed else "longer than its header says"
        raise RosterError(
            f"{str(file)!r} cannot be read: it is {kind}: {size:,} bytes, its header says {needed:,}; fetch it again"
        )
    return tensors, metadata


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return made


def _place(file: Path, name: str, entry: Any, data: int) -> Place:
    try:
        dtype, shape, (start, stop) = DTYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
        spec = Spec(dtype, shape)
        fits = stop - start == spec.nbytes and start >= 0
    except (KeyError, TypeError, ValueError):
        raise RosterError(f"{str(file)!r}: tensor {name!r} has an entry that roster does not read: {entry}") from None
    if not fits:
        raise RosterError(f"{str(file)!r}: tensor {name!r} is {spec}, but its bytes are {start} to {stop}")
    return Place(spec, file, data + start)
