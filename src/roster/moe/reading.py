"""Reading a model with routed blocks back from the folder that `roster.moe.writing` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydantic
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from roster.errors import RosterError
from roster.moe.adopting import adopt
from roster.moe.manifest import Adopted, Manifest, Replaced
from roster.moe.replacing import replace
from roster.moe.writing import WEIGHTS
from roster.routed.base import load_tokenizer
from roster.saving import MANIFEST


def load(folder: Path, dtype: torch.dtype | str | None = None, **kwargs: Any) -> Any:
    """Reads a model with routed blocks back.

    Args:
        folder: what `save` wrote.
        dtype: of the floating-point tensors; by default each has the one that it was saved in.

    Raises:
        RosterError: files missing, damaged or changed.
    """
    if kwargs:
        raise RosterError(f"a model with routed blocks is read whole: {', '.join(sorted(kwargs))} does not apply to it")
    manifest = _read_manifest(folder)
    stored = _read_weights(folder / WEIGHTS)
    with torch.random.fork_rng(devices=[]):  # the weights that are about to be replaced shall cost no randomness
        model = _again(_skeleton(folder / "base", manifest.architecture), manifest.made)
    fill(model, stored, str(folder / WEIGHTS))
    model.roster.base_name = manifest.base_name
    model.roster.tokenizer = load_tokenizer(folder / "base")
    if dtype is not None:
        model.to(dtype=getattr(torch, dtype) if isinstance(dtype, str) else dtype)
    return model.eval()


def fill(model: nn.Module, stored: dict[str, Tensor], where: str) -> None:
    """Puts tensors into a model, each in the type that it has; every one must be there and fit, none may be left over.

    Tensors that the model shares between several names may stand under any one of them.
    """
    state = model.state_dict(keep_vars=True)
    homes: dict[int, list[str]] = {}
    for name, tensor in state.items():
        homes.setdefault(id(tensor), []).append(name)
    missing = [names[0] for names in homes.values() if not any(name in stored for name in names)]
    for name in [*missing, *sorted(stored.keys() - state.keys())]:
        verb = "is missing from" if name in state else "is not known to this model but stands in"
        raise RosterError(f"tensor {name!r} {verb} {where!r}")
    for name, value in stored.items():
        tensor = state[name]
        if tensor.shape != value.shape:
            raise RosterError(f"tensor {name!r} in {where!r} is {list(value.shape)}, not {list(tensor.shape)}")
        # Into memory of its own: that of a mapped file is not aligned, and kernels round differently there.
        tensor.data = torch.empty_like(tensor, dtype=value.dtype).copy_(value)


def _skeleton(folder: Path, architecture: str) -> nn.Module:
    import transformers

    cls = getattr(transformers, architecture, None)
    if cls is None:
        raise RosterError(f"{str(folder)!r} names a model class that transformers does not have: {architecture!r}")
    try:
        config = transformers.AutoConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise RosterError(f"cannot read a config from {str(folder)!r}: {str(error).splitlines()[0]}") from None
    model = cls(config)
    if model.can_generate() and (folder / "generation_config.json").is_file():
        model.generation_config = transformers.GenerationConfig.from_pretrained(folder)
    return model


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    try:
        manifest = Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, pydantic.ValidationError, UnicodeDecodeError) as error:
        raise RosterError(f"{str(path)!r} cannot be read: {str(error).splitlines()[0]}") from None
    if manifest.format != 1:
        raise RosterError(f"{str(path)!r} has format {manifest.format}; this roster reads format 1")
    return manifest


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        stored = load_file(path)
    except (OSError, SafetensorError) as error:
        raise RosterError(f"{str(path)!r} cannot be read: {error}") from None
    for name, tensor in stored.items():
        # A saved bias or a pruned expert may hold -inf on purpose; NaN is never meant.
        if tensor.is_floating_point() and bool(torch.isnan(tensor).any()):
            raise RosterError(f"tensor {name!r} in {str(path)!r} holds NaN")
    return stored


def _again(model: nn.Module, made: Replaced | Adopted) -> Any:
    """Does to a fresh model of the same class what was done to the one that was saved."""
    if isinstance(made, Adopted):
        return adopt(model, router=made.router, options=made.options, tasks=made.tasks)
    return replace(model, made.recipe, options=made.options, layers=made.layers, hidden=made.hidden, tasks=made.tasks)
