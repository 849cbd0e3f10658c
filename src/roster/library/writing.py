"""Writing adapters in PEFT's own format, whole or not at all."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import save_file

from roster.errors import RosterError
from roster.library.adapter import Adapter, LowRank, hash_modules
from roster.library.card import Card
from roster.library.reading import CONFIG, WEIGHTS

_FORBIDDEN = {"", ".", ".."}


def make_adapter(name: str, modules: Mapping[str, LowRank], base: str, card: Card | None = None) -> Adapter:
    """An adapter from updates, with a config by which PEFT reproduces them, different ranks and scales included.

    Args:
        name: what its folder will be called.
        modules: update by the full name of the base's module.
        base: public name of the base.
        card: by default one whose task is the name.
    """
    if not modules:
        raise RosterError(f"adapter {name!r} would change nothing: it has no updates")
    ranks = {module: update.A_RD.shape[0] for module, update in modules.items()}
    alphas = {module: update.scale * ranks[module] for module, update in modules.items()}
    r, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
    config = peft.LoraConfig(
        base_model_name_or_path=base,
        r=r,
        lora_alpha=alpha,
        # A list would match by suffix, and so take in modules that nobody named.
        target_modules="|".join(f"(?:{re.escape(module)})" for module in modules),
        rank_pattern={re.escape(m): rank for m, rank in ranks.items() if rank != r},
        alpha_pattern={re.escape(m): each for m, each in alphas.items() if each != alpha},
        inference_mode=True,
    )
    return Adapter(name, None, dict(modules), card or Card(task=name, base=base), config, hash_modules(modules))


def write_adapter(
    folder: str | Path, adapter: Adapter, *, dtype: torch.dtype | None = None, overwrite: bool = False
) -> Path:
    """Writes `folder/<adapter's name>`.

    Args:
        folder: the library's folder; made when it is not there.
        adapter: what to write.
        dtype: convert the tensors to this type first.
        overwrite: replace an adapter of the same name.

    Returns:
        The adapter's folder.
    """
    if adapter.name in _FORBIDDEN or "/" in adapter.name or "\0" in adapter.name:
        raise RosterError(f"{adapter.name!r} cannot be the name of a folder")
    folder = Path(folder)
    target = folder / adapter.name
    if target.exists() and not overwrite:
        raise RosterError(f"{str(target)!r} is already there")
    folder.mkdir(parents=True, exist_ok=True)
    if dtype is not None:
        cast = {n: replace(u, A_RD=u.A_RD.to(dtype), B_OR=u.B_OR.to(dtype)) for n, u in adapter.modules.items()}
        adapter = replace(adapter, modules=cast, weights_hash=hash_modules(cast))
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=folder) as scratch:
        new = Path(scratch) / "new"
        new.mkdir()
        save_file(_tensors(adapter.modules), new / WEIGHTS, metadata={"format": "pt"})
        (new / CONFIG).write_text(json.dumps(_plain(adapter.config), indent=1) + "\n", encoding="utf-8")
        adapter.card.model_copy(update={"weights_hash": adapter.weights_hash}).write(new)
        if target.exists():
            target.rename(Path(scratch) / "old")
        new.rename(target)
    return target


def _tensors(modules: Mapping[str, LowRank]) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, update in modules.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = update.A_RD.detach().cpu().contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = update.B_OR.detach().cpu().contiguous()
    return tensors


def _plain(config: peft.LoraConfig) -> dict[str, Any]:
    """The config as PEFT would write it, in the same order every time."""
    with tempfile.TemporaryDirectory() as scratch:
        config.save_pretrained(scratch)
        return json.loads((Path(scratch) / CONFIG).read_text(encoding="utf-8"))
