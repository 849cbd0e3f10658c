"""Tensors on disk: sharded safetensors files, written as transformers writes them and read without a second copy.

Reading goes tensor by tensor into memory of its own, straight from the file: a mapped file would stay in memory beside
what is made of it, and its addresses are not aligned, so that kernels round differently there. Never a pickle.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor

from roster.errors import RosterError
from roster.header import Place, read_header
from roster.saving import inside

INDEX = ".index.json"


def write_tensors(
    state: Mapping[str, Tensor], folder: Path, name: str = "model", max_shard_size: int | str = "5GB"
) -> None:
    """Writes `name.safetensors`, or shards of at most that size with an index; shared tensors are stored once."""
    once = {id(tensor): _whole(tensor) for tensor in state.values()}  # a copy would no longer be shared
    save_torch_state_dict(
        {key: once[id(tensor)] for key, tensor in state.items()},
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
        self._places: dict[str, Place] = {}
        for file in files:
            self._places |= read_header(file)[0]

    def shape(self, key: str) -> list[int]:
        """The shape of a tensor, without reading it."""
        return list(self._places[key].spec.shape)

    def __getitem__(self, key: str) -> Tensor:
        place = self._places[key]
        tensor = torch.empty(place.spec.shape, dtype=place.spec.dtype)
        if place.spec.nbytes:
            with place.file.open("rb") as stream:
                stream.seek(place.offset)
                got = stream.readinto(tensor.reshape(-1).view(torch.uint8).numpy().data)
            if got != place.spec.nbytes:
                raise RosterError(f"{str(place.file)!r} cannot be read: it ends within tensor {key!r}")
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _files_of(index: Path, folder: Path) -> list[Path]:
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise RosterError(f"{str(index)!r} cannot be read: {type(error).__name__}: {error}") from None
    return [inside(folder, str(name), repr(str(index))) for name in sorted(names)]
