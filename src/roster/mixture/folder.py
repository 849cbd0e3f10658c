"""A mixture on disk: one folder that reloads to the same bits, on another machine too.

    roster.json          what it is: recipe and options, experts and hashes, fingerprint of the base
    experts/NAME/        each expert in PEFT's own format, with its card
    router.safetensors   every tensor of the routers and heads
    base/                the base itself, when it has no public name (or when asked for)

`roster.json` is written last: a folder without it is not a mixture.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydantic
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from roster.errors import RosterError
from roster.experts import LowRankExperts
from roster.library import Library, LowRank, check_same_base, fingerprint, read_adapter, write_adapter
from roster.library.adapter import hash_modules
from roster.mixture.attach import attach, routed_linears
from roster.mixture.base import load_base, load_tokenizer
from roster.mixture.site import CHILD
from roster.recipes import find

MANIFEST = "roster.json"
ROUTER = "router.safetensors"
# Of every kind of mixture, so that one kind can take the other's place; the last makes the others a mixture.
_ENTRIES = ("experts", "base", ROUTER, "model.safetensors", MANIFEST)


class Expert(pydantic.BaseModel, extra="forbid"):
    """One expert of a saved mixture."""

    name: str
    weights_hash: str


class Base(pydantic.BaseModel, extra="forbid"):
    """The base that a saved mixture belongs to."""

    name: str | None
    included: bool
    architecture: str
    fingerprint: dict[str, str]


class Manifest(pydantic.BaseModel, extra="forbid"):
    """`roster.json`."""

    format: int = 1
    recipe: str
    options: dict[str, Any]
    experts: list[Expert]
    tasks: list[str]
    base: Base


def save(model: Any, folder: Path, include_base: bool | None = None) -> None:
    """Writes a routed model.

    Args:
        model: a routed model.
        folder: where to; a mixture that is already there is replaced, and kept until the new one is whole.
        include_base: whether the base's own files go along; by default when it has no public name.
    """
    mixture = model.roster
    if include_base is None:
        include_base = mixture.base_name is None
    table = fingerprint(model, skip=_is_ours)
    if not table:
        raise RosterError(
            "all weights of the base are offloaded, so that there is nothing to tell it by: load it without "
            "offloading, and save that mixture"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        new = Path(scratch) / "new"
        new.mkdir()
        experts = _write_experts(model, new / "experts")
        save_file({k: v.contiguous() for k, v in router_state(model).items()}, new / ROUTER)
        if include_base:
            write_base(model, new / "base")
        base = Base(
            name=mixture.base_name,
            included=include_base,
            architecture=type(model).base_class.__name__,
            fingerprint=table,
        )
        manifest = Manifest(
            recipe=mixture.recipe, options=mixture.options, experts=experts, tasks=list(mixture.tasks), base=base
        )
        (new / MANIFEST).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
        move_in(new, folder)


def load(folder: Path, base: Any = None, **kwargs: Any) -> Any:
    """Reads a routed model back.

    Args:
        folder: what `save` wrote.
        base: a folder, name or loaded model to use instead of the one that the mixture names.
        kwargs: for the base's `from_pretrained`.

    Raises:
        RosterError: files missing, damaged or changed, or a base that is not the one it was made for.
    """
    manifest = read_manifest(folder)
    recipe = find(manifest.recipe)
    model, name, tokenizer = _base_of(folder, manifest, base, kwargs)
    check_same_base(manifest.base.fingerprint, model, what=f"the mixture {str(folder)!r}")
    library = _read_experts(folder, manifest)
    attach(
        model,
        library,
        recipe(manifest.options),
        recipe=recipe.slug,
        options=manifest.options,
        tokenizer=tokenizer,
        tasks=manifest.tasks,
        prepare=False,
    )
    model.roster.base_name = name
    load_router(model, folder)
    return model


def read_manifest(folder: Path) -> Manifest:
    """`roster.json` of a folder; RosterError when there is none or it says something unknown."""
    path = folder / MANIFEST
    if not path.is_file():
        raise RosterError(f"{str(folder)!r} is not a roster mixture: it has no {MANIFEST}")
    try:
        manifest = Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except (pydantic.ValidationError, UnicodeDecodeError) as error:
        raise RosterError(f"{str(path)!r} cannot be read: {str(error).splitlines()[0]}") from None
    if manifest.format != 1:
        raise RosterError(f"{str(path)!r} has format {manifest.format}; this roster reads format 1")
    return manifest


def router_state(model: nn.Module) -> dict[str, Tensor]:
    """Every tensor that the recipe added, by its name in the model; the LoRA factors live with the experts."""
    factors = {
        f"{name}.{CHILD}.experts.{factor}"
        for name, child in routed_linears(model)
        if isinstance(child.experts, LowRankExperts)
        for factor in ("A_RI", "B_RO")
    }
    return {name: t for name, t in model.state_dict().items() if _is_ours(name) and name not in factors}


def load_router(model: nn.Module, folder: Path) -> None:
    """Fills the routers from a folder; every tensor must be there and fit, none may be left over."""
    path = folder / ROUTER
    try:
        stored = load_file(path)
    except (OSError, SafetensorError) as error:
        raise RosterError(f"{str(path)!r} cannot be read: {error}") from None
    state = router_state(model)
    for name in sorted(state.keys() ^ stored.keys()):
        where = "is missing from" if name in state else "is not known to this recipe but stands in"
        raise RosterError(f"router tensor {name!r} {where} {str(path)!r}")
    for name, tensor in state.items():
        if tensor.shape != stored[name].shape:
            raise RosterError(
                f"router tensor {name!r} in {str(path)!r} is {list(stored[name].shape)}, not {list(tensor.shape)}"
            )
        if stored[name].is_floating_point() and not bool(torch.isfinite(stored[name]).all()):
            raise RosterError(f"router tensor {name!r} in {str(path)!r} holds values that are not finite")
        with torch.no_grad():
            tensor.copy_(stored[name])


def load_experts(model: nn.Module, folder: Path) -> None:
    """Fills the LoRA experts of a model from a folder of the same mixture (a training checkpoint)."""
    library = _read_experts(folder, read_manifest(folder))
    for name, child in routed_linears(model):
        if isinstance(child.experts, LowRankExperts):
            updates = [library[expert].modules.get(name) for expert in library.names]
            present = [each for each in updates if each is not None]
            with torch.no_grad():
                child.experts.A_RI.copy_(torch.cat([each.A_RD for each in present]))
                child.experts.B_RO.copy_(torch.cat([each.B_OR.T for each in present]))


def current_adapters(model: Any) -> dict[str, Any]:
    """The experts as they are now, tensors included, by name."""
    adapters = {}
    for index, (name, adapter) in enumerate(model.roster.adapters.items()):
        modules = dict(adapter.modules)
        for site, child in routed_linears(model):
            factors = child.experts.expert(index) if isinstance(child.experts, LowRankExperts) else None
            if factors is not None:
                A_RI, B_OR, scale = factors
                modules[site] = LowRank(A_RI.detach().cpu(), B_OR.detach().cpu(), scale)
        weights_hash = hash_modules(modules)
        card = adapter.card.model_copy(update={"weights_hash": weights_hash})
        adapters[name] = replace(adapter, modules=modules, weights_hash=weights_hash, card=card)
    return adapters


def _is_ours(name: str) -> bool:
    return f".{CHILD}." in f".{name}"


def _write_experts(model: Any, folder: Path) -> list[Expert]:
    folder.mkdir()
    experts = []
    for name, adapter in current_adapters(model).items():
        write_adapter(folder, adapter)
        experts.append(Expert(name=name, weights_hash=adapter.weights_hash))
    return experts


def _read_experts(folder: Path, manifest: Manifest) -> Library:
    adapters = []
    for expert in manifest.experts:
        adapter = read_adapter(folder / "experts" / expert.name)
        if adapter.weights_hash != expert.weights_hash:
            raise RosterError(
                f"expert {expert.name!r} in {str(folder)!r} is not the one that the router was made for: its weights "
                f"hash to {adapter.weights_hash[:12]}, not {expert.weights_hash[:12]}; build the mixture anew"
            )
        adapters.append(adapter)
    return Library({adapter.name: adapter for adapter in adapters})


def write_base(model: Any, folder: Path, instead: Mapping[str, Tensor] | None = None) -> None:
    """The base's own files, as transformers writes them: a copy of its class with none of our modules.

    Args:
        model: a routed model.
        folder: where to.
        instead: tensors that take the place of the base's, by name.
    """
    plain_state = {name: tensor for name, tensor in model.state_dict().items() if not _is_ours(name)}
    plain_state |= instead or {}
    super(type(model).__mro__[1], model).save_pretrained(folder, state_dict=plain_state)
    config = folder / "config.json"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace(type(model).__name__, type(model).base_class.__name__), encoding="utf-8")
    if model.roster.tokenizer is not None:
        model.roster.tokenizer.save_pretrained(folder)


def _base_of(folder: Path, manifest: Manifest, base: Any, kwargs: dict[str, Any]) -> tuple[nn.Module, str | None, Any]:
    """(model, public name, tokenizer)"""
    if isinstance(base, nn.Module):
        return base, manifest.base.name, None
    if base is None:
        base = folder / "base" if manifest.base.included else manifest.base.name
    if base is None:
        raise RosterError(f"the mixture {str(folder)!r} does not carry its base, which has no public name: pass base=")
    model, name = load_base(base, **kwargs)
    return model, name if not manifest.base.included else manifest.base.name, load_tokenizer(base)


def move_in(new: Path, folder: Path) -> None:
    """Puts a finished folder in place. What else lies in an existing folder (a trainer's state) stays there.

    The mixture that was there is moved aside first, whole, and comes back when anything fails.
    """
    if not folder.exists():
        new.rename(folder)
        return
    old = new.with_name("old")
    old.mkdir()
    try:
        for name in _ENTRIES:
            if (folder / name).exists():
                (folder / name).rename(old / name)
        for name in _ENTRIES:
            if (new / name).exists():
                (new / name).rename(folder / name)
    except BaseException:
        for name in _ENTRIES:
            if (folder / name).exists() and (old / name).exists():
                (folder / name).rename(new.with_name(f"failed-{name}"))
            if (old / name).exists():
                (old / name).rename(folder / name)
        raise
