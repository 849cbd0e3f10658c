"""A model with routed blocks on disk in the shards in which processes hold it, read back by any other number of them.

    roster.json, base/    as `roster.moe.writing` writes them
    shards/               safetensors, one file per process, by torch's distributed checkpoint (DCP)

No process ever holds the whole. `gather` makes the ordinary folder of it, which `roster.load` reads. Beside the model's
own tensors a training may keep others (of an optimiser) in the same shards.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from roster.errors import RosterError
from roster.moe.manifest import BlockManifest
from roster.moe.reading import made_again
from roster.moe.writing import BASE, manifest_of, write_surroundings
from roster.processes import is_first, wait_for_all
from roster.routed.base import load_tokenizer
from roster.saving import MANIFEST, read_manifest

SHARDS = "shards"


def write_shards(model: Any, folder: Path, beside: Mapping[str, Tensor] | None = None) -> None:
    """Writes a model as its processes hold it; every one of them must call this.

    Args:
        model: with routed blocks, spread over processes or whole.
        folder: where to; new, or empty but for what others keep there. It is whole once `roster.json` is in it.
        beside: tensors to keep beside the model's own, by names that none of these has.

    Raises:
        RosterError: the folder holds shards already, or nothing says how to make the model's blocks again.
    """
    if (folder / SHARDS).exists():
        raise RosterError(f"{str(folder)!r} holds shards already: name a new folder")
    manifest = manifest_of(model).model_dump_json(indent=1)
    wait_for_all()
    writer = HuggingFaceStorageWriter(str(folder / SHARDS), save_distributed=True)
    with _quiet():
        save({**_once(model), **(beside or {})}, storage_writer=writer)
    if is_first():
        write_surroundings(model, folder / BASE)
        (folder / MANIFEST).write_text(manifest, encoding="utf-8")
    wait_for_all()


def read_shards(model: Any, folder: Path, beside: MutableMapping[str, Tensor] | None = None) -> None:
    """Fills a model that is made as the written one was, over however many processes; every one must call this.

    Args:
        model: whole or spread.
        folder: what `write_shards` wrote.
        beside: tensors that are filled, too, by their names.

    Raises:
        RosterError: no such folder, or tensors that are missing or of another shape.
    """
    read_manifest(folder, BlockManifest)
    reader = HuggingFaceStorageReader(str(folder / SHARDS))
    state = {**_once(model), **(beside or {})}
    stored = reader.read_metadata().state_dict_metadata
    for name, tensor in state.items():
        if name not in stored:
            raise RosterError(f"tensor {name!r} is missing from {str(folder / SHARDS)!r}")
        there, wanted = list(cast(Any, stored[name]).size), list(tensor.shape)
        if there != wanted:
            raise RosterError(f"tensor {name!r} in {str(folder / SHARDS)!r} is {there}, not {wanted}")
    with _quiet():
        load(state, storage_reader=reader)


def stored_beside(folder: Path, prefix: str) -> dict[str, Tensor]:
    """Empty tensors, in one piece, for what lies beside a model's own tensors under names that begin with a prefix."""
    found = HuggingFaceStorageReader(str(folder / SHARDS)).read_metadata().state_dict_metadata
    kept = {name: cast(Any, each) for name, each in found.items() if name.startswith(prefix)}
    return {name: torch.empty(each.size, dtype=each.properties.dtype) for name, each in kept.items()}


def gather(folder: Path, out: Path) -> Any:
    """Writes the ordinary folder of a model from its shards, in one process; returns the model."""
    manifest = read_manifest(folder, BlockManifest)
    model = made_again(folder / BASE, manifest)
    read_shards(model, folder)
    model.roster.base_name, model.roster.tokenizer = manifest.base_name, load_tokenizer(folder / BASE)
    model.eval().save_pretrained(out)
    return model


def _once(model: Any) -> dict[str, Tensor]:
    """A model's tensors by name; those that several names share under the first of them."""
    shared: dict[int, str] = {}
    kept = model.state_dict(keep_vars=True)
    return {name: tensor.detach() for name, tensor in kept.items() if shared.setdefault(id(tensor), name) == name}


@contextmanager
def _quiet() -> Iterator[None]:
    """One process alone is what is meant, and no news."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        yield
