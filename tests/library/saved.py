"""Adapters as PEFT itself writes them, and ways to spoil them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import tiny
from roster.library.config import CONFIG
from roster.library.reading import WEIGHTS

# What PEFT 0.21 says about transformers 5.2x, GPT-2 and models that have no name; none of it is about this package.
PEFT_WARNINGS = (
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning",
    "ignore:fan_in_fan_out is set to False but the target module is `Conv1D`:UserWarning",
    "ignore:Setting `save_embedding_layers` to `True` as embedding layers found:UserWarning",
)


def peft_model(base: nn.Module, adapter: str = "default", **config: Any) -> peft.PeftModel:
    """A base with one adapter whose factors are random, B included."""
    lora = peft.LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], **config})
    model = peft.get_peft_model(base, lora, adapter_name=adapter).eval()
    generator = torch.Generator().manual_seed(11)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return model


def save(folder: Path, architecture: str = "llama", **config: Any) -> peft.PeftModel:
    """Saves such an adapter of a tiny model; returns the model."""
    model = peft_model(tiny.base(architecture), **config)
    model.save_pretrained(folder)
    return model


def deltas(model: peft.PeftModel, adapter: str = "default") -> dict[str, Tensor]:
    """PEFT's own update of every layer, as [out_features, in_features]."""
    found = {}
    for name, module in model.base_model.model.named_modules():
        if isinstance(module, LoraLayer):
            delta = module.get_delta_weight(adapter)
            found[name] = delta.T if module.fan_in_fan_out else delta
    return found


def logits(model: nn.Module) -> Tensor:
    ids = torch.stack(tiny.tokens(6, 6, seed=5))
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


def edit_config(folder: Path, **fields: Any) -> None:
    path = folder / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def edit_tensors(folder: Path, edit: Callable[[dict[str, Tensor]], Any]) -> None:
    """Lets `edit` change the table of tensors in place."""
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS)
