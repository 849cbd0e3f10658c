"""Tensors on disk: sharded safetensors files, written as transformers writes them and read without a second copy.

Reading goes tensor by tensor into memory of its own, straight from the file: a mapped file would stay in memory beside
what is made of it, and its addresses are not aligned, so that kernels round differently there. Never a pickle.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor

from roster.errors import RosterError
from roster.saving import inside

INDEX = ".index.json"
_DTYPES = {
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


def write_tensors(
    state: Mapping[str, Tensor], folder: Path, name: str = "model", max_shard_size: int | str = "5GB"
) -> None:
    """Writes `name.safetensors`, or shards of at most that size with an index; shared tensors are stored once."""
    save_torch_state_dict(
        {key: _whole(tensor) for key, tensor in state.items()},
        folder,
        filename_pattern=f"{name}{{suffix}}.safetensors",
        max_shard_size=max_shard_size,
    )


def _whole(tensor: Tensor) -> Tensor:
    """The tensor itself, or a copy where it is a part of a larger piece of memory, which would be written whole."""
    storage = tensor.untyped_storage().nbytes()
    return tensor if tensor.is_meta or storage == tensor.numel() * tensor.element_size() else tensor.detach().clone()


class StoredTensors(Mapping[str, Tensor]):
    """The tensors that `write_tensors`, or transformers, wrote to a folder; each is read when it is asked for.

    Args:
        folder: where they lie.
        name: of the file, or of the shards, without the ending.

    Raises:
        RosterError: no such files, a damaged one, or an index that leads elsewhere.
    """

    def __init__(self, folder: Path, name: str = "model"):
        self.where = folder / f"{name}.safetensors"
        index = folder / f"{name}.safetensors{INDEX}"
        files = _files_of(index, folder) if not self.where.is_file() and index.is_file() else [self.where]
        self._entries: dict[str, tuple[Path, int, dict[str, Any]]] = {}
        for file in files:
            start, header = read_header(file)
            self._entries |= {key: (file, start, entry) for key, entry in header.items()}

    def shape(self, key: str) -> list[int]:
        """The shape of a tensor, without reading it."""
        return list(self._entries[key][2]["shape"])

    def __getitem__(self, key: str) -> Tensor:
        file, start, entry = self._entries[key]
        dtype = _DTYPES.get(entry["dtype"])
        if dtype is None:
            raise RosterError(
                f"tensor {key!r} in {str(file)!r} is of type {entry['dtype']}, which roster does not read"
            )
        tensor = torch.empty(entry["shape"], dtype=dtype)
        begin, end = entry["data_offsets"]
        if end - begin != tensor.numel() * tensor.element_size():
            raise RosterError(f"{str(file)!r} cannot be read: tensor {key!r} has another size than its shape says")
        if end > begin:
            with file.open("rb") as stream:
                stream.seek(start + begin)
                got = stream.readinto(tensor.reshape(-1).view(torch.uint8).numpy().data)
            if got != end - begin:
                raise RosterError(f"{str(file)!r} cannot be read: it ends within tensor {key!r}")
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def read_header(file: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """(where the data begin, what the file says of each tensor) of a safetensors file; RosterError when damaged."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > size - 8:
                raise ValueError("its header is longer than the file")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        if max((entry["data_offsets"][1] for entry in header.values()), default=0) != size - 8 - length:
            raise ValueError("its data are not as long as its header says")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise RosterError(f"{str(file)!r} cannot be read: {error}") from None
    return 8 + length, header


def _files_of(index: Path, folder: Path) -> list[Path]:
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise RosterError(f"{str(index)!r} cannot be read: {type(error).__name__}: {error}") from None
    return [inside(folder, str(name), repr(str(index))) for name in sorted(names)]
