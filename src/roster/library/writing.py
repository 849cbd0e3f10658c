"""Writing adapters in PEFT's own format, whole or not at all.

Shape legend: R rank, D in_features, O out_features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import peft
import torch
from safetensors.torch import save_file
from torch import Tensor

from roster.errors import RosterError
from roster.library.adapter import Adapter, LowRank, Magnitude, Vector, hash_modules
from roster.library.config import CONFIG, config_json, resolve, targets
from roster.library.gates import GATES
from roster.library.ia3 import ia3_tensors
from roster.library.making import check_updates
from roster.library.reading import WEIGHTS, check_tensors
from roster.library.soft_prompt import prompt_tensors
from roster.saving import check_name, writing
from roster.shelf.card import CARD, Card

# What describes or belongs to the weights, and goes with them when an adapter is replaced.
_OURS = (WEIGHTS, CONFIG, CARD, GATES, "adapter_model.bin")


def write_adapter(
    folder: str | Path, adapter: Adapter, *, dtype: torch.dtype | None = None, overwrite: bool = False
) -> Path:
    """Writes `folder/<adapter's name>`; when it fails, what was there before is still there.

    Args:
        folder: the library's folder; made when it is not there.
        adapter: what to write.
        dtype: convert the tensors to this type first.
        overwrite: replace the weights, config, card and gates of an adapter of the same name; other files stay.

    Returns:
        The adapter's folder.

    Raises:
        RosterError: the folder exists or cannot have this name, the config says otherwise than the updates, or values
            are not finite.
    """
    folder = Path(folder)
    target = folder / check_name(adapter.name)
    if target.exists() and not overwrite:
        raise RosterError(f"{str(target)!r} is already there; pass overwrite=True to replace it")
    if target.exists() and not (target / CONFIG).is_file():
        raise RosterError(f"{str(target)!r} is already there and is not an adapter; roster does not replace it")
    prompt_VD = adapter.prompt_VD if dtype is None or adapter.prompt_VD is None else adapter.prompt_VD.to(dtype)
    modules = {} if prompt_VD is not None else _as_read(adapter, dtype)
    tensors = _tensors(modules) if prompt_VD is None else prompt_tensors(prompt_VD)
    check_tensors(tensors, f"adapter {adapter.name!r}")
    with writing(target, _OURS, through_link=False) as new:
        save_file(tensors, new / WEIGHTS, metadata={"format": "pt"})
        (new / CONFIG).write_text(config_json(adapter.config), encoding="utf-8")
        adapter.card.model_copy(update={"weights_hash": hash_modules(modules, prompt_VD)}).write(new)
    return target


def described(adapter: Adapter) -> Card:
    """The adapter's card with the hash of its weights and the base that it names."""
    base = adapter.card.base or adapter.config.base_model_name_or_path or None
    return adapter.card.model_copy(update={"weights_hash": adapter.weights_hash, "base": base})


def _as_read(adapter: Adapter, dtype: torch.dtype | None) -> dict[str, LowRank]:
    """The updates as a reader will find them; RosterError where the config would make others of them."""
    check_updates(adapter.name, adapter.modules)
    modules = {}
    for module, update in adapter.modules.items():
        if isinstance(update, Vector):
            modules[module] = update if dtype is None else _converted(update, dtype)
            continue
        assert isinstance(adapter.config, peft.LoraConfig), "(IA)3 has vectors alone"
        rank, scale = resolve(adapter.config, module)
        agrees = rank == update.A_RD.shape[0] and math.isclose(scale, update.scale, rel_tol=1e-6)
        if not agrees or not targets(adapter.config, module):
            raise RosterError(
                f"adapter {adapter.name!r}: {module!r} has rank {update.A_RD.shape[0]} and scale {update.scale}, which "
                "is not what its config says: build it with make_adapter"
            )
        same = replace(update, scale=scale)
        modules[module] = same if dtype is None else _converted(same, dtype)
    return modules


def _converted(update: LowRank, dtype: torch.dtype) -> LowRank:
    factors = replace(update, A_RD=update.A_RD.to(dtype), B_OR=update.B_OR.to(dtype))
    if isinstance(factors, Vector):
        return replace(factors, vector_X=factors.vector_X.to(dtype))
    if not isinstance(factors, Magnitude):
        return factors
    return replace(factors, magnitude_O=factors.magnitude_O.to(dtype))


def _tensors(modules: Mapping[str, LowRank]) -> dict[str, Tensor]:
    tensors = ia3_tensors({name: each for name, each in modules.items() if isinstance(each, Vector)})
    for name, update in modules.items():
        if isinstance(update, Vector):
            continue
        # Copies: safetensors refuses tensors that share memory.
        for factor, tensor in (("lora_A", update.A_RD), ("lora_B", update.B_OR)):
            tensors[f"base_model.model.{name}.{factor}.weight"] = tensor.detach().cpu().contiguous().clone()
        if isinstance(update, Magnitude):
            tensors[f"base_model.model.{name}.lora_magnitude_vector"] = update.magnitude_O.detach().cpu().clone()
    return tensors
