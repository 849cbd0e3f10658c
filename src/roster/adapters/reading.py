"""Reading a mixture of adapters back from the folder that `roster.adapters.writing` wrote."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from roster.adapters.attach import attach
from roster.adapters.manifest import BASE, EXPERTS, ROUTER, MixtureManifest
from roster.adapters.site import routed_linears
from roster.adapters.writing import router_state
from roster.errors import RosterError, RosterNote
from roster.experts import LowRankExperts, RescaledExperts
from roster.library import Library, check_same_base, read_adapter
from roster.prompts import RAW, Rendering
from roster.recipes import find
from roster.routed.base import load_base, load_tokenizer
from roster.routed.settling import Settling
from roster.saving import MANIFEST, inside, read_manifest
from roster.tensors import StoredTensors


def load(folder: Path, base: str | Path | PreTrainedModel | None = None, **kwargs: Any) -> Any:
    """Reads a routed model back.

    Args:
        folder: what `save` wrote.
        base: a folder, name or loaded model to use instead of the one that the mixture names.
        kwargs: for the base's `from_pretrained`.

    Raises:
        RosterError: files missing, damaged or changed, or a base that is not the one it was made for.
    """
    manifest = read_manifest(folder, MixtureManifest)
    recipe = find(manifest.recipe)
    model, name, tokenizer = _base_of(folder, manifest, base, kwargs)
    check_same_base(manifest.base.fingerprint, model, what=f"the mixture {str(folder)!r}")
    library = _read_experts(folder, manifest)
    rendering = None if tokenizer is None else _rendering(tokenizer, manifest.template, folder)
    routed = attach(
        model,
        library,
        recipe(manifest.options),
        recipe=recipe.slug,
        options=manifest.options,
        tokenizer=rendering,
        tasks=manifest.tasks,
        prepare=False,
    )
    routed.roster.base_name = name
    load_router(routed, folder)
    return routed


def _rendering(tokenizer: Any, template: str | None, folder: Path) -> Rendering:
    """Prompts as the mixture was built for them; a note where the tokenizer's template is another by now."""
    now = Rendering(tokenizer).digest
    if template is None and now != RAW:
        note = "was built before chat templates were read: texts are read as they stand until it is built anew"
    elif template not in (None, RAW, now):
        note = f"was built with the chat template {template}, and the tokenizer's is {now}: build it anew"
    else:
        note = ""
    if note:
        warnings.warn(f"{str(folder)!r} {note}", RosterNote, stacklevel=2)
    return Rendering(tokenizer, template not in (None, RAW))


def load_router(model: nn.Module, folder: Path) -> None:
    """Fills the routers from a folder; every tensor must be there and fit, none may be left over.

    Parts that keep numbers beside their tensors are told when these are in place.
    """
    stored = StoredTensors(folder, ROUTER)
    path = stored.where
    _fit_to(model, stored)
    state = router_state(model)
    for name in sorted(state.keys() ^ stored.keys()):
        where = "is missing from" if name in state else "is not known to this recipe but stands in"
        raise RosterError(f"router tensor {name!r} {where} {str(path)!r}")
    for name, tensor in state.items():
        if list(tensor.shape) != stored.shape(name):
            raise RosterError(
                f"router tensor {name!r} in {str(path)!r} is {stored.shape(name)}, not {list(tensor.shape)}"
            )
        value = stored[name]
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise RosterError(f"router tensor {name!r} in {str(path)!r} holds values that are not finite")
        with torch.no_grad():
            tensor.copy_(value)
    for module in model.modules():
        if isinstance(module, Settling):
            module.settle()


def _fit_to(model: nn.Module, stored: StoredTensors) -> None:
    """Gives the buffers whose sizes only a folder knows the shapes that they have there."""
    for name, module in model.named_modules():
        for buffer in sorted(getattr(module, "sized_by_file", ())):
            if (key := f"{name}.{buffer}") in stored:
                module.register_buffer(buffer, module.get_buffer(buffer).new_empty(stored.shape(key)))


def load_experts(model: nn.Module, folder: Path) -> None:
    """Fills the LoRA experts of a model from a folder of the same mixture (a training checkpoint)."""
    library = _read_experts(folder, read_manifest(folder, MixtureManifest))
    for name, child in routed_linears(model):
        if isinstance(child.experts, LowRankExperts) and not isinstance(child.experts, RescaledExperts):
            updates = [library[expert].modules.get(name) for expert in library.names]
            present = [each for each in updates if each is not None]
            with torch.no_grad():
                child.experts.A_RI.copy_(torch.cat([each.A_RD for each in present]))
                child.experts.B_RO.copy_(torch.cat([each.B_OR.T for each in present]))


def _read_experts(folder: Path, manifest: MixtureManifest) -> Library:
    adapters = []
    for expert in manifest.experts:
        adapter = read_adapter(inside(folder / EXPERTS, expert.name, MANIFEST))
        if adapter.weights_hash != expert.weights_hash:
            raise RosterError(
                f"expert {expert.name!r} in {str(folder)!r} is not the one that the router was made for: its weights "
                f"hash to {adapter.weights_hash[:12]}, not {expert.weights_hash[:12]}; build the mixture anew"
            )
        adapters.append(adapter)
    return Library({adapter.name: adapter for adapter in adapters})


def _base_of(
    folder: Path, manifest: MixtureManifest, base: str | Path | PreTrainedModel | None, kwargs: dict[str, Any]
) -> tuple[PreTrainedModel, str | None, Any]:
    """(model, public name, tokenizer)"""
    if isinstance(base, nn.Module):
        return base, manifest.base.name, None
    if base is None:
        base = folder / BASE if manifest.base.included else manifest.base.name
    if base is None:
        raise RosterError(f"the mixture {str(folder)!r} does not carry its base, which has no public name: pass base=")
    model, name = load_base(base, **kwargs)
    return model, name if not manifest.base.included else manifest.base.name, load_tokenizer(base, **kwargs)
