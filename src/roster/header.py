"""The header of a safetensors file: names, types, shapes and places of its tensors, checked against the file's size.

No tensor is read here, so a damaged or truncated file is known before any work starts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from roster.entries import read_entries
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
    entries, metadata, start, size = read_entries(file)
    tensors = {name: _place(file, name, entry, start) for name, entry in entries.items()}
    needed = max((place.offset + place.spec.nbytes for place in tensors.values()), default=start)
    if needed != size:
        kind = "truncated" if size < needed else "longer than its header says"
        raise RosterError(
            f"{str(file)!r} cannot be read: it is {kind}: {size:,} bytes, its header says {needed:,}; fetch it again"
        )
    return tensors, metadata


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
