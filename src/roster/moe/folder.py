"""A model with routed blocks on disk: one folder that reloads to the same bits.

    roster.json          how the model was made: recipe, options, layers, tasks
    model.safetensors    every tensor of the whole model, the blocks' and the rest
    base/                config of the model's own class, generation config, tokenizer where one is known

`roster.json` is written last: a folder without it is not a mixture. What an existing architecture can express is
written as that architecture by `roster.moe.export`, not here.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Literal

import pydantic
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_model
from torch import Tensor, nn

from roster.errors import RosterError
from roster.mixture.base import load_tokenizer
from roster.mixture.folder import MANIFEST, move_in

WEIGHTS = "model.safetensors"


class Made(pydantic.BaseModel, extra="forbid"):
    """How a model came to its routed blocks: what it takes to do it again, before the weights are filled in."""

    how: str

    def again(self, model: nn.Module) -> Any:
        """Does to a fresh model of the same class what was done to this one."""
        raise NotImplementedError


class Replaced(Made):
    """By `roster.moe.replace`."""

    how: Literal["replaced"] = "replaced"
    recipe: str
    options: dict[str, Any]
    layers: list[int] | None
    hidden: int | None
    tasks: list[str]

    def again(self, model: nn.Module) -> Any:
        """Replaces the same blocks."""
        from roster.moe.replacing import replace

        return replace(
            model, self.recipe, options=self.options, layers=self.layers, hidden=self.hidden, tasks=self.tasks
        )


class Adopted(Made):
    """By `roster.moe.adopt`."""

    how: Literal["adopted"] = "adopted"
    router: str | None
    options: dict[str, Any]
    tasks: list[str]

    def again(self, model: nn.Module) -> Any:
        """Adopts the same blocks."""
        from roster.moe.adopting import adopt

        return adopt(model, router=self.router, options=self.options, tasks=self.tasks)


class Manifest(pydantic.BaseModel, extra="forbid"):
    """`roster.json`."""

    format: int = 1
    kind: Literal["moe"] = "moe"
    made: Replaced | Adopted = pydantic.Field(discriminator="how")
    architecture: str
    base_name: str | None


def save(model: Any, folder: Path) -> None:
    """Writes a model whose blocks are routed, whole.

    Args:
        model: what `roster.moe.replace` or `roster.moe.adopt` returned.
        folder: where to; a mixture that is already there is replaced, and kept until the new one is whole.

    Raises:
        RosterError: nothing says how to make its blocks again (a router made by a function, a model cut to one task).
    """
    mixture = model.roster
    if mixture.made is None:
        raise RosterError(
            f"this model cannot be saved as a roster folder: {mixture.unsaved or 'its blocks were changed by hand'}; "
            "roster.moe.export writes it as an existing architecture where one can express it"
        )
    manifest = Manifest(
        made=mixture.made, architecture=type(model).base_class.__name__, base_name=mixture.base_name
    ).model_dump_json(indent=1)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        new = Path(scratch) / "new"
        new.mkdir()
        save_model(model, str(new / WEIGHTS))  # one copy of tensors that are shared
        write_surroundings(model, new / "base")
        (new / MANIFEST).write_text(manifest, encoding="utf-8")
        move_in(new, folder)


def write_surroundings(model: Any, folder: Path) -> None:
    """What a model folder holds besides weights: config, generation config, tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    config = model.config.to_dict()
    config["architectures"] = [type(model).base_class.__name__]
    type(model.config).from_dict(config).save_pretrained(folder)
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.save_pretrained(folder)
    if model.roster.tokenizer is not None:
        model.roster.tokenizer.save_pretrained(folder)


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
        model = manifest.made.again(_skeleton(folder / "base", manifest.architecture))
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
