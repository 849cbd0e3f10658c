"""Reading a model with routed blocks back from the folder that `roster.moe.writing` wrote.

The model is made without memory for its weights, then filled tensor by tensor: loading takes the memory of the weights
once, and where a device map says that they belong elsewhere, not even that.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import dispatch_model, infer_auto_device_map
from accelerate.utils import get_balanced_memory, offload_state_dict
from torch import Tensor, nn

from roster.errors import RosterError
from roster.moe.adopting import adopt
from roster.moe.manifest import Adopted, BlockManifest, Replaced
from roster.moe.replacing import replace
from roster.moe.writing import BASE
from roster.routed.base import load_tokenizer
from roster.routed.weightless import without_weights
from roster.router import HALF, Router
from roster.saving import read_manifest
from roster.tensors import StoredTensors

DeviceMap = str | int | torch.device | Mapping[str, Any]


def load(
    folder: Path,
    dtype: torch.dtype | str | None = None,
    device_map: DeviceMap | None = None,
    max_memory: Mapping[Any, int | str] | None = None,
    offload_folder: str | Path | None = None,
    **kwargs: Any,
) -> Any:
    """Reads a model with routed blocks back.

    Args:
        folder: what `save` wrote.
        dtype: of the floating-point tensors; by default ("auto", too) each has the one that it was saved in.
        device_map: where its parts go, as transformers' `from_pretrained` takes it ("auto", a device, or a table).
        max_memory: per device, for "auto".
        offload_folder: where parts lie that the device map sends to the disk.

    Raises:
        RosterError: files missing, damaged or changed, or an argument that does not apply.
    """
    if kwargs:
        raise RosterError(
            f"a model with routed blocks is read from its own folder: {', '.join(sorted(kwargs))} does not apply to it"
        )
    manifest = read_manifest(folder, BlockManifest)
    stored = StoredTensors(folder)
    model = made_again(folder / BASE, manifest, empty=True)
    where = _places(model, device_map, max_memory, offload_folder)
    _check(model, stored, str(stored.where))
    with torch.no_grad():
        _fill(model, stored, None if dtype == "auto" else dtype, where, offload_folder)
    if where is not None:
        model = dispatch_model(model, where, offload_dir=offload_folder, force_hooks=len(set(where.values())) > 1)
        model.hf_device_map = where
    model.roster.base_name = manifest.base_name
    model.roster.tokenizer = load_tokenizer(folder / BASE)
    return model.eval()


def made_again(folder: Path, manifest: BlockManifest, empty: bool = False) -> Any:
    """A model as it was made, to be filled.

    Args:
        folder: of its config.
        manifest: says what was done to it.
        empty: it takes no memory but for its buffers (its weights are on torch's meta device).
    """
    cls = getattr(transformers, manifest.architecture, None)
    if cls is None:
        raise RosterError(
            f"{str(folder)!r} names a model class that transformers does not have: {manifest.architecture!r}"
        )
    try:
        config = transformers.AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, TypeError) as error:
        raise RosterError(f"cannot read a config from {str(folder)!r}: {str(error).splitlines()[0]}") from None
    # What is about to be replaced shall cost neither memory nor randomness.
    with without_weights() if empty else nullcontext(), torch.random.fork_rng(devices=[]):
        model = _again(cls(config), manifest.made)
    if model.can_generate() and (folder / "generation_config.json").is_file():
        model.generation_config = transformers.GenerationConfig.from_pretrained(folder)
    return model


def _again(model: transformers.PreTrainedModel, made: Replaced | Adopted) -> Any:
    """Does to a fresh model of the same class what was done to the one that was saved."""
    if isinstance(made, Adopted):
        return adopt(model, router=made.router, options=made.options, tasks=made.tasks)
    return replace(model, made.recipe, options=made.options, layers=made.layers, hidden=made.hidden, tasks=made.tasks)


def _places(
    model: Any,
    device_map: DeviceMap | None,
    max_memory: Mapping[Any, int | str] | None,
    offload_folder: str | Path | None,
) -> dict[str, Any] | None:
    """Device by module name, the longest name that fits a tensor counting; None for no map at all."""
    if device_map is None:
        if max_memory is not None or offload_folder is not None:
            raise RosterError("max_memory= and offload_folder= go with device_map=")
        return None
    if isinstance(device_map, str) and device_map in ("auto", "balanced", "balanced_low_0", "sequential"):
        together = list(model._no_split_modules or ())
        memory = dict(max_memory) if max_memory is not None else None
        if device_map != "sequential":
            memory = get_balanced_memory(
                model, memory, no_split_module_classes=together, low_zero=device_map == "balanced_low_0"
            )
        places: dict[str, Any] = infer_auto_device_map(model, memory, no_split_module_classes=together)
    else:
        places = dict(device_map) if isinstance(device_map, Mapping) else {"": device_map}
    if "disk" in places.values() and offload_folder is None:
        raise RosterError("the device map sends parts of the model to the disk: say where with offload_folder=")
    return places


def _check(model: nn.Module, stored: StoredTensors, where: str) -> None:
    """Every tensor of the model must be there and fit, none may be left over.

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
    for name in stored:
        if stored.shape(name) != list(state[name].shape):
            raise RosterError(f"tensor {name!r} in {where!r} is {stored.shape(name)}, not {list(state[name].shape)}")


def _fill(
    model: nn.Module,
    stored: StoredTensors,
    dtype: torch.dtype | str | None,
    places: Mapping[str, Any] | None,
    offload_folder: str | Path | None,
) -> None:
    """Reads every tensor to where it belongs, each in the type that it has or the one that is asked for."""
    wanted = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    on_disk: dict[str, Tensor] = {}
    state, homes = model.state_dict(keep_vars=True), _homes(model)
    deciding = (module for module in model.modules() if isinstance(module, Router))
    routers = {id(each) for router in deciding for each in chain(router.parameters(), router.buffers())}
    for name in stored:
        value = stored[name]
        # A saved bias or a pruned expert may hold -inf on purpose; NaN is never meant.
        if value.is_floating_point() and bool(torch.isnan(value).any()):
            raise RosterError(f"tensor {name!r} in {str(stored.where)!r} holds NaN")
        # Routers stay in float32, as they do when a model is converted.
        if value.is_floating_point() and wanted is not None and not (id(state[name]) in routers and wanted in HALF):
            value = value.to(wanted)
        place = "cpu" if places is None else _place_of(name, places)
        if place == "disk" and isinstance(state[name], nn.Parameter):
            on_disk[name] = value
        else:
            old, value = state[name], value.to("cpu" if place == "disk" else place)
            new = nn.Parameter(value, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else value
            for table, key in homes[id(old)]:
                table[key] = new
    if on_disk:
        offload_state_dict(str(offload_folder), on_disk)


def _place_of(name: str, places: Mapping[str, Any]) -> Any:
    fitting = [each for each in places if each in ("", name) or name.startswith(f"{each}.")]
    if not fitting:
        raise RosterError(f"the device map has no place for {name!r}")
    return places[max(fitting, key=len)]


def _homes(model: nn.Module) -> dict[int, list[tuple[dict[str, Any], str]]]:
    """For every tensor, the dictionaries and keys under which modules hold it: more than one where it is shared."""
    homes: dict[int, list[tuple[dict[str, Any], str]]] = {}
    for module in model.modules():
        for table in (module._parameters, module._buffers):
            for key, tensor in table.items():
                if tensor is not None:
                    homes.setdefault(id(tensor), []).append((table, key))
    return homes
