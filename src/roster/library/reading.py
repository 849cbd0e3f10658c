"""Reading one adapter from PEFT's own format. Never a pickle.

Shape legend: R rank, I in_features, O out_features.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import peft
import torch
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError, safe_open
from torch import Tensor

from roster.errors import RosterError
from roster.library.adapter import Adapter, LowRank, hash_modules
from roster.library.card import Card
from roster.library.refusals import check_config

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_KEY = re.compile(r"^(?:base_model\.model\.)?(?P<module>.+)\.(?P<factor>lora_[AB])\.weight$")


def read_adapter(path: str | Path) -> Adapter:
    """Reads one adapter.

    Args:
        path: the folder that PEFT's `save_pretrained` wrote.

    Raises:
        RosterError: missing, damaged or unsupported; names the file and, where there is one, the tensor or field.
    """
    path = Path(path)
    config = _read_config(path)
    tensors = _read_tensors(path)
    pairs = _pairs(tensors, str(path / WEIGHTS))
    modules = {name: _update(name, A, B, config, str(path / WEIGHTS)) for name, (A, B) in pairs.items()}
    card = Card.read(path)
    weights_hash = hash_modules(modules)
    if card.weights_hash not in (None, weights_hash):
        raise RosterError(
            f"the card of {str(path)!r} is stale: it describes weights {card.weights_hash[:12]}, but these are "
            f"{weights_hash[:12]}; look it over, then run `roster experts check FOLDER --refresh`"
        )
    return Adapter(path.name, path, modules, card, config, weights_hash)


def _read_config(path: Path) -> peft.LoraConfig:
    file = path / CONFIG
    if not file.is_file():
        raise RosterError(f"{str(path)!r} is not an adapter: it has no {CONFIG}")
    try:
        raw: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RosterError(f"{str(file)!r} is not JSON: {error}") from None
    if not isinstance(raw, dict):
        raise RosterError(f"{str(file)!r} must hold an object, not a {type(raw).__name__}")
    check_config(raw, str(file))
    known = {field.name for field in dataclasses.fields(peft.LoraConfig) if field.init}
    try:
        return peft.LoraConfig(**{k: v for k, v in raw.items() if k in known and k != "peft_type"})
    except (TypeError, ValueError) as error:
        raise RosterError(f"{str(file)!r}: {error}") from None


def _read_tensors(path: Path) -> dict[str, Tensor]:
    file = path / WEIGHTS
    if not file.is_file():
        if (path / "adapter_model.bin").exists():
            raise RosterError(
                f"{str(path)!r} has only adapter_model.bin, a pickle, which roster never loads: convert it with "
                "`PeftModel.from_pretrained(...).save_pretrained(...)`"
            )
        raise RosterError(f"{str(path)!r} has no {WEIGHTS}")
    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise RosterError(f"{str(file)!r} is damaged: {error}") from None
    if not tensors:
        raise RosterError(f"{str(file)!r} holds no tensors: this adapter changes nothing")
    for key, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise RosterError(f"{str(file)!r}: tensor {key!r} holds values that are not finite (NaN or infinity)")
    return tensors


def _pairs(tensors: dict[str, Tensor], where: str) -> dict[str, tuple[Tensor, Tensor]]:
    """(A, B) per module; every tensor must be half of such a pair."""
    halves: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = _KEY.match(key)
        if match is None:
            raise RosterError(
                f"{where}: tensor {key!r} is neither lora_A nor lora_B of a linear layer; roster reads no embeddings, "
                "biases, magnitudes or saved modules"
            )
        halves.setdefault(match["module"], {})[match["factor"]] = tensor
    pairs = {}
    for module, factors in halves.items():
        for factor in ("lora_A", "lora_B"):
            if factor not in factors:
                raise RosterError(f"{where}: module {module!r} has no {factor}")
        A, B = factors["lora_A"], factors["lora_B"]
        if A.dim() != 2 or B.dim() != 2 or A.shape[0] != B.shape[1]:
            raise RosterError(
                f"{where}: module {module!r} has lora_A {list(A.shape)} and lora_B {list(B.shape)}, which are not "
                "[rank, in_features] and [out_features, rank] of one linear layer"
            )
        pairs[module] = (A, B)
    return pairs


def _update(module: str, A_RI: Tensor, B_OR: Tensor, config: peft.LoraConfig, where: str) -> LowRank:
    rank = config.rank_pattern.get(get_pattern_key(list(config.rank_pattern), module), config.r)
    alpha = config.alpha_pattern.get(get_pattern_key(list(config.alpha_pattern), module), config.lora_alpha)
    if A_RI.shape[0] != rank:
        raise RosterError(
            f"{where}: lora_A of {module!r} is {list(A_RI.shape)}, but the config says rank {rank}: "
            f"expected [{rank}, {A_RI.shape[1]}]"
        )
    return LowRank(A_RI, B_OR, alpha / (math.sqrt(rank) if config.use_rslora else rank))
