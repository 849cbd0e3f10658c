"""The header of a safetensors file in torch's types: names, types, shapes and places of its tensors.

No tensor is read here; `roster.entries` reads and checks the header itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from roster.entries import read_entries

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
    """The tensors of one file by name, and its metadata; raises as `roster.entries.read_entries` does."""
    entries, metadata = read_entries(file)
    places = {name: Place(Spec(DTYPES[entry.code], entry.shape), file, entry.offset) for name, entry in entries.items()}
    return places, metadata
