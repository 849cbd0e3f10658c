"""Writing adapters in PEFT's own format, whole or not at all.

Shape legend: R rank, D in_features, O out_features.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import peft
import torch
from safetensors.torch import save_file
from torch import Tensor

from roster.errors import RosterError
from roster.library.adapter import Adapter, LowRank, hash_modules
from roster.library.config import CONFIG, config_json, resolve, targets
from roster.library.gates import GATES
from roster.library.reading import WEIGHTS, check_tensors
from roster.saving import check_name, writing
from roster.shelf.card import CARD, Card

# What describes or belongs to the weights, and goes with them when an adapter is replaced.
_OURS = (WEIGHTS, CONFIG, CARD, GATES, "adapter_model.bin")


def make_adapter(name: str, modules: Mapping[str, LowRank], base: str, card: Card | None = None) -> Adapter:
    """An adapter from updates, with a config by which PEFT reproduces them, different ranks and scales included.

    PEFT stores alpha, from which the scale is recomputed, so a scale may change in its last bit; the adapter that is
    returned has the scales that a reader will find.

    Args:
        name: what its folder will be called.
        modules: update by the full name of the base's module.
        base: public name of the base.
        card: by default one whose task is the name.
    """
    _check_updates(name, modules)
    ranks = {module: update.A_RD.shape[0] for module, update in modules.items()}
    alphas = {module: _alpha(update.scale * ranks[module]) for module, update in modules.items()}
    r, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
    config = peft.LoraConfig(
        base_model_name_or_path=base,
        r=r,
        lora_alpha=alpha,  # type: ignore[arg-type]  # PEFT divides it: any number does
        # A list would match by suffix, and so take in modules that nobody named.
        target_modules="|".join(f"(?:{re.escape(module)})" for module in modules),
        # Anchored, as PEFT would let any prefix stand before the pattern.
        rank_pattern={f"^{re.escape(m)}": rank for m, rank in ranks.items() if rank != r},
        alpha_pattern={f"^{re.escape(m)}": each for m, each in alphas.items() if each != alpha},
        inference_mode=True,
    )
    exact = {module: replace(update, scale=resolve(config, module)[1]) for module, update in modules.items()}
    return Adapter(name, None, exact, card or Card(task=name, base=base or None), config, hash_modules(exact))


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
    modules = _as_read(adapter, dtype)
    tensors = _tensors(modules)
    check_tensors(tensors, f"adapter {adapter.name!r}")
    with writing(target, _OURS, through_link=False) as new:
        save_file(tensors, new / WEIGHTS, metadata={"format": "pt"})
        (new / CONFIG).write_text(config_json(adapter.config), encoding="utf-8")
        adapter.card.model_copy(update={"weights_hash": hash_modules(modules)}).write(new)
    return target


def described(adapter: Adapter) -> Card:
    """The adapter's card with the hash of its weights and the base that it names."""
    base = adapter.card.base or adapter.config.base_model_name_or_path or None
    return adapter.card.model_copy(update={"weights_hash": adapter.weights_hash, "base": base})


def _check_updates(name: str, modules: Mapping[str, LowRank]) -> None:
    if not modules:
        raise RosterError(f"adapter {name!r} would change nothing: it has no updates")
    for module, update in modules.items():
        A, B = update.A_RD, update.B_OR
        if A.dim() != 2 or B.dim() != 2 or A.shape[0] != B.shape[1] or A.shape[0] == 0:
            raise RosterError(
                f"adapter {name!r}: {module!r} has A {list(A.shape)} and B {list(B.shape)}, which are not "
                "[rank, in_features] and [out_features, rank]"
            )
        if not math.isfinite(update.scale):
            raise RosterError(f"adapter {name!r}: the scale of {module!r} is {update.scale}")


def _as_read(adapter: Adapter, dtype: torch.dtype | None) -> dict[str, LowRank]:
    """The updates as a reader will find them; RosterError where the config would make others of them."""
    _check_updates(adapter.name, adapter.modules)
    modules = {}
    for module, update in adapter.modules.items():
        rank, scale = resolve(adapter.config, module)
        agrees = rank == update.A_RD.shape[0] and math.isclose(scale, update.scale, rel_tol=1e-6)
        if not agrees or not targets(adapter.config, module):
            raise RosterError(
                f"adapter {adapter.name!r}: {module!r} has rank {update.A_RD.shape[0]} and scale {update.scale}, which "
                "is not what its config says: build it with make_adapter"
            )
        A_RD, B_OR = update.A_RD, update.B_OR
        modules[module] = LowRank(A_RD.to(dtype or A_RD.dtype), B_OR.to(dtype or B_OR.dtype), scale)
    return modules


def _alpha(value: float) -> float:
    """A whole alpha as an integer, as other programs expect it."""
    return int(value) if value == int(value) else value


def _tensors(modules: Mapping[str, LowRank]) -> dict[str, Tensor]:
    tensors = {}
    for name, update in modules.items():
        # Copies: safetensors refuses tensors that share memory.
        for factor, tensor in (("lora_A", update.A_RD), ("lora_B", update.B_OR)):
            tensors[f"base_model.model.{name}.{factor}.weight"] = tensor.detach().cpu().contiguous().clone()
    return tensors
