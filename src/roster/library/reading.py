"""Reading one adapter from PEFT's own format: LoRA, DoRA, (IA)3, soft prompts, and AdaLoRA as the LoRA that it is.
Never a pickle.

Shape legend: R rank, I in_features, O out_features.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from roster.errors import RosterError
from roster.library.adalora import KIND as ADALORA
from roster.library.adalora import as_lora
from roster.library.adapter import Adapter, LowRank, Magnitude, Stored, hash_modules
from roster.library.config import config_of, read_raw, resolve, targets
from roster.library.ia3 import KIND as IA3
from roster.library.ia3 import ia3_config, ia3_modules
from roster.library.soft_prompt import KINDS as SOFT
from roster.library.soft_prompt import prompt_config, prompt_of
from roster.shelf.card import Card
from roster.shelf.folders import CONFIG
from roster.shelf.folders import WEIGHTS as WEIGHTS

_KEY = re.compile(r"^(?:base_model\.model\.)?(?P<module>.+)\.(?P<factor>lora_[AB])\.weight$")
_MAGNITUDE = re.compile(r"^(?:base_model\.model\.)?(?P<module>.+)\.lora_magnitude_vector(?:\.weight)?$")
_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

# Tensors that are not plain LoRA: the first pattern found in the name says what the tensor is.
_STRANGERS = {
    r"lora_embedding_[AB]": "an update of an embedding; train without embeddings in target_modules",
    r"lora_magnitude_vector": "a magnitude of DoRA, but use_dora is not set in the config",
    r"lora_[AB]\.bias$": "a bias of LoRA; train with lora_bias=False",
    r"lora_[AB]\.[^.]+\.weight$": "a raw state dict's, with the adapter's name in it; write it with save_pretrained",
    r"base_layer|embed_tokens|lm_head|wte": "a layer of the base. If the base was resized for new tokens before this "
    "was trained, save that base (`model.get_base_model().save_pretrained(BASE)`, and its tokenizer) and use it; only "
    "if its vocabulary is still the one that it came with, save the adapter with save_embedding_layers=False",
    r"modules_to_save|original_module": "a saved module; train with modules_to_save=None",
    r"": "neither lora_A nor lora_B of a linear layer; train plain LoRA",
}


def read_adapter(path: str | Path, *, stale_card: bool = False, mapped: bool = False) -> Adapter:
    """Reads one adapter.

    Args:
        path: the folder that PEFT's `save_pretrained` wrote.
        stale_card: accept a card that describes other weights (to write a new one).
        mapped: leave plain LoRA updates in the file, which must stay as it is while they are used.

    Returns:
        Tensors on the CPU, in the type of the file.

    Raises:
        RosterError: missing, damaged or unsupported; names the file and, where there is one, the tensor or field.
    """
    path = Path(path)
    name = Path(os.path.abspath(path)).name  # "." has a name too
    file = repr(str(path / WEIGHTS))
    raw = read_raw(path)
    if raw.get("peft_type") == IA3:
        return _read_ia3(path, name, raw, stale_card)
    if str(raw.get("peft_type")) in SOFT:
        return _read_prompt(path, name, raw, stale_card)
    if raw.get("peft_type") == ADALORA:
        raw, tensors = as_lora(raw, _read_tensors(path), repr(str(path)))
        config = config_of(raw, path / CONFIG)
    else:
        config = config_of(raw, path / CONFIG)
        tensors = _read_tensors(path)
    modules = _modules(tensors, config, file)
    if mapped:
        modules = {
            name: Stored(each.A_RD, each.B_OR, each.scale) if type(each) is LowRank else each
            for name, each in modules.items()
        }
    card, weights_hash = _described(path, modules, stale_card)
    return Adapter(name, path, modules, card, config, weights_hash)


def _read_ia3(path: Path, name: str, raw: dict[str, Any], stale_card: bool) -> Adapter:
    config, tensors, file = ia3_config(raw, repr(str(path / CONFIG))), _read_tensors(path), repr(str(path / WEIGHTS))
    check_tensors(tensors, file)
    modules = ia3_modules(tensors, file)
    card, weights_hash = _described(path, modules, stale_card)
    return Adapter(name, path, modules, card, config, weights_hash)


def _read_prompt(path: Path, name: str, raw: dict[str, Any], stale_card: bool) -> Adapter:
    config, tensors, file = prompt_config(raw, repr(str(path / CONFIG))), _read_tensors(path), repr(str(path / WEIGHTS))
    prompt_VD = prompt_of(tensors, config, file)
    check_tensors(tensors, file)
    card, weights_hash = _described(path, {}, stale_card, prompt_VD)
    return Adapter(name, path, {}, card, config, weights_hash, prompt_VD)


def _described(
    path: Path, modules: Mapping[str, LowRank], stale_card: bool, prompt_VD: Tensor | None = None
) -> tuple[Card, str]:
    """(card, hash of the weights); RosterError for a card of other weights."""
    card = Card.read(path)
    weights_hash = hash_modules(modules, prompt_VD)
    if not stale_card and card.weights_hash not in (None, weights_hash):
        raise RosterError(
            f"the card of {str(path)!r} is stale: it describes weights {card.weights_hash[:12]}, but these are "
            f"{weights_hash[:12]}; look it over, then run `roster experts check FOLDER --refresh`"
        )
    return card, weights_hash


def _modules(tensors: dict[str, Tensor], config: peft.LoraConfig, where: str) -> dict[str, LowRank]:
    """The updates of a LoRA, or of a DoRA with their magnitudes."""
    magnitudes = _magnitudes(tensors, where) if config.use_dora else {}
    pairs = _pairs({key: tensor for key, tensor in tensors.items() if key not in magnitudes}, where)
    modules: dict[str, LowRank] = {
        module: _update(module, A_RI, B_OR, config, where) for module, (A_RI, B_OR) in pairs.items()
    }
    if not config.use_dora:
        return modules
    check_tensors(tensors, where)
    by_module = {module: tensors[key] for key, module in magnitudes.items()}
    for module in by_module.keys() - modules.keys():
        raise RosterError(f"{where}: module {module!r} has a magnitude, and no lora_A and lora_B")
    return {module: _with_magnitude(update, module, by_module, where) for module, update in modules.items()}


def check_tensors(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raises RosterError on a tensor that holds anything but finite floating-point numbers."""
    for key, tensor in tensors.items():
        if tensor.dtype not in _FLOATS:
            raise RosterError(f"{where}: tensor {key!r} is {tensor.dtype}; save it as float32, bfloat16 or float16")
        if not bool(torch.isfinite(tensor).all()):
            raise RosterError(f"{where}: tensor {key!r} holds values that are not finite (NaN or infinity)")


def _read_tensors(path: Path) -> dict[str, Tensor]:
    file = path / WEIGHTS
    if not file.is_file():
        if (path / "adapter_model.bin").exists():
            raise RosterError(
                f"{str(path)!r} has only adapter_model.bin, a pickle, which roster never loads (it can run any code): "
                "if you trust it, convert it with `PeftModel.from_pretrained(base, FOLDER).save_pretrained(NEW)`"
            )
        raise RosterError(f"{str(path)!r} has an {CONFIG}, but no {WEIGHTS}")
    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise RosterError(f"{str(file)!r} is damaged: {error}") from None
    if not tensors:
        raise RosterError(f"{str(file)!r} holds no tensors: this adapter changes nothing")
    return tensors


def _pairs(tensors: dict[str, Tensor], where: str) -> dict[str, tuple[Tensor, Tensor]]:
    """(A, B) per module; every tensor must be half of such a pair."""
    halves: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = _KEY.match(key)
        if match is None:
            kind = next(kind for pattern, kind in _STRANGERS.items() if re.search(pattern, key))
            raise RosterError(f"{where}: roster does not read tensor {key!r}: it is {kind}")
        halves.setdefault(match["module"], {})
        if match["factor"] in halves[match["module"]]:
            raise RosterError(f"{where}: tensor {key!r} is there twice, with and without 'base_model.model.'")
        halves[match["module"]][match["factor"]] = tensor
    check_tensors(tensors, where)
    return {module: _pair(module, factors, where) for module, factors in halves.items()}


def _pair(module: str, factors: dict[str, Tensor], where: str) -> tuple[Tensor, Tensor]:
    for factor in ("lora_A", "lora_B"):
        if factor not in factors:
            raise RosterError(f"{where}: module {module!r} has no {factor}")
    A, B = factors["lora_A"], factors["lora_B"]
    if A.dim() != 2 or B.dim() != 2 or A.shape[0] != B.shape[1]:
        raise RosterError(
            f"{where}: module {module!r} has lora_A {list(A.shape)} and lora_B {list(B.shape)}, which are not "
            "[rank, in_features] and [out_features, rank] of one linear layer"
        )
    return A, B


def _update(module: str, A_RI: Tensor, B_OR: Tensor, config: peft.LoraConfig, where: str) -> LowRank:
    rank, scale = resolve(config, module)
    if A_RI.shape[0] != rank:
        raise RosterError(
            f"{where}: tensor '{module}.lora_A.weight' is {list(A_RI.shape)}, but {CONFIG} gives it rank {rank}: "
            f"expected [{rank}, {A_RI.shape[1]}]"
        )
    if not targets(config, module):
        raise RosterError(
            f"{where}: tensor '{module}.lora_A.weight' belongs to a module that target_modules="
            f"{_short(config.target_modules)} in {CONFIG} leaves out, so PEFT would ignore it; the two files do not "
            "belong together"
        )
    return LowRank(A_RI, B_OR, scale)


def _magnitudes(tensors: Mapping[str, Tensor], where: str) -> dict[str, str]:
    """Keys of magnitudes, with the module of each."""
    found = {key: told["module"] for key in tensors if (told := _MAGNITUDE.match(key))}
    twice = [module for module in found.values() if list(found.values()).count(module) > 1]
    if twice:
        raise RosterError(f"{where}: module {twice[0]!r} has two magnitudes")
    return found


def _with_magnitude(update: LowRank, module: str, magnitudes: dict[str, Tensor], where: str) -> Magnitude:
    magnitude_O = magnitudes.get(module)
    if magnitude_O is None or list(magnitude_O.shape) != [update.B_OR.shape[0]]:
        found = "none" if magnitude_O is None else f"{list(magnitude_O.shape)}"
        wanted = f"a magnitude [{update.B_OR.shape[0]}]"
        raise RosterError(f"{where}: use_dora is set, so module {module!r} needs {wanted}, not {found}")
    return Magnitude(update.A_RD, update.B_OR, update.scale, magnitude_O)


def _short(target: object) -> str:
    text = repr(sorted(target) if isinstance(target, set) else target)
    return text if len(text) <= 200 else text[:200] + "..."
