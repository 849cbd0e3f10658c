"""Where tensors come from: a checkpoint on disk, known by its headers and read piece by piece.

Any object with `name`, `specs` and `read` is a source; views (a slice, a stack, a permutation of another source's
tensors) and adapters on a base are sources too, see `views.py` and `adapter.py`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from roster.errors import RosterError
from roster.header import Place, Spec, read_header

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


class Source(Protocol):
    """A named set of tensors that can be read from any element to any other."""

    name: str

    @property
    def specs(self) -> Mapping[str, Spec]:
        """Types and shapes by name, in the order in which reading is cheapest."""

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """Elements [start, stop) of a tensor laid out flat, in its own type; the caller may change them."""

    def fingerprint(self) -> str:
        """Changes when what `read` returns may have changed."""


class Model(Source, Protocol):
    """A source that can be asked: its config and tokenizer lie in a folder."""

    folder: Path


def folder_of(source: Source) -> Path | None:
    """Where a source's config and tokenizer lie; None for one that has none."""
    folder = getattr(source, "folder", None)
    return folder if isinstance(folder, Path) else None


class Checkpoint:
    """A folder with `config.json` and safetensors, sharded or not, or a single .safetensors file.

    Attributes:
        name: what the user called it.
        folder: where it lies.
        config: `config.json`; empty for a single file.
    """

    def __init__(self, path: Path, name: str | None = None) -> None:
        self.name = name or str(path)
        self.folder = path if path.is_dir() else path.parent
        self.config = _config(self.folder) if path.is_dir() else {}
        self._places = _places(path)
        self._specs = {each: place.spec for each, place in self._places.items()}
        self._opened: dict[Path, int] = {}

    @property
    def specs(self) -> Mapping[str, Spec]:
        """By name, in the order of the files."""
        return self._specs

    @property
    def places(self) -> Mapping[str, Place]:
        """Where each tensor's bytes lie, for whoever reads them by offset."""
        return self._places

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """See `Source.read`.

        Raises:
            RosterError: the file became shorter, or cannot be read any more.
        """
        into = torch.empty(stop - start, dtype=self._places[name].spec.dtype)
        self.fill(into, name, start)
        return into

    def fill(self, into: Tensor, name: str, start: int) -> None:
        """Reads elements from `start` on into a flat tensor of the tensor's type: memory that is used again is not
        asked for, and cleared by the system, piece after piece.

        Raises:
            RosterError: see `read`.
        """
        place = self._places[name]
        if not into.numel():
            return
        view = into.view(torch.uint8).numpy().data
        at = place.offset + start * place.spec.dtype.itemsize
        try:
            while view:
                got = os.preadv(self._file(place.file), [view], at)
                if got == 0:
                    raise RosterError(f"{str(place.file)!r} became shorter while it was read")
                view, at = view[got:], at + got
        except OSError as error:
            raise RosterError(f"{str(place.file)!r} cannot be read: {error.strerror}") from None

    def fingerprint(self) -> str:
        """Of the files: where they lie, their sizes, and when they were written."""
        stats = {file: file.stat() for file in {place.file for place in self._places.values()}}
        return repr(sorted((str(file.resolve()), stat.st_size, stat.st_mtime_ns) for file, stat in stats.items()))

    def close(self) -> None:
        """Closes the files; they open again when they are read."""
        while self._opened:
            os.close(self._opened.popitem()[1])

    def __del__(self) -> None:
        if hasattr(self, "_opened"):
            self.close()

    def _file(self, file: Path) -> int:
        if file not in self._opened:
            self._opened[file] = os.open(file, os.O_RDONLY)
        return self._opened[file]


def open_checkpoint(name: str | Path) -> Checkpoint:
    """A checkpoint by its folder, its file, or its name on the Hugging Face hub (downloaded, or from the cache).

    Raises:
        RosterError: there is none, it holds pickles only, a shard is missing or truncated, a tensor is there twice.
    """
    path = Path(name)
    if path.exists():
        return Checkpoint(path, str(name))
    if str(name).count("/") != 1 or str(name).startswith((".", "/", "~")):
        raise RosterError(f"there is no checkpoint at {str(name)!r}")
    import huggingface_hub  # only for names that are not on this machine

    try:
        kinds = ["*.safetensors", "*.json", "tokenizer*", "*.jinja", "*.txt", "*.model"]
        folder = huggingface_hub.snapshot_download(str(name), allow_patterns=kinds)
    except Exception as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RosterError(f"{str(name)!r} is neither a folder here nor a model on the hub: {line}") from None
    return Checkpoint(Path(folder), str(name))


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    if not file.is_file():
        return {}
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise RosterError(f"{str(file)!r} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise RosterError(f"{str(file)!r} must hold an object")
    return config


def _places(path: Path) -> dict[str, Place]:
    if path.is_file():
        return read_header(path)[0]
    if not (path / INDEX).is_file():
        if (path / SINGLE).is_file():
            return read_header(path / SINGLE)[0]
        pickles = sorted(each.name for each in path.glob("*.bin"))
        why = f"only pickles ({pickles[0]}), which roster never loads" if pickles else f"neither {SINGLE} nor {INDEX}"
        raise RosterError(f"{str(path)!r} holds {why}")
    try:
        shard_of: dict[str, str] = json.loads((path / INDEX).read_text(encoding="utf-8"))["weight_map"]
        shards = dict.fromkeys(shard_of.values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise RosterError(f"{str(path / INDEX)!r} is damaged: {error!r}") from None
    missing = [shard for shard in shards if not (path / shard).is_file()]
    if missing:
        raise RosterError(f"{str(path)!r} lacks the shard {missing[0]!r}, which its index names; fetch it again")
    found: dict[str, Place] = {}
    for shard in shards:
        for name, place in read_header(path / shard)[0].items():
            if name in found:
                raise RosterError(f"{str(path)!r}: tensor {name!r} is in both {found[name].file.name!r} and {shard!r}")
            found[name] = place
    lost = sorted(shard_of.keys() - found.keys())
    if lost:
        raise RosterError(f"{str(path)!r}: no shard holds {lost[0]!r}, which its index names")
    return found
