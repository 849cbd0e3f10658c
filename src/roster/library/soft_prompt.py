"""Soft prompts as PEFT writes them: learnt vectors that stand before a prompt's own embeddings.

Prompt tuning (Lester et al., 2021, arXiv:2104.08691) and P-tuning (Liu et al., 2021, arXiv:2103.10385), whose file
holds what its encoder made of the virtual tokens. What they do in a model is in `roster.experts.virtual_tokens`; prefix
tuning, which gives keys and values of every layer, is refused.

Shape legend: V virtual tokens, D width of the base's embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import peft
from torch import Tensor

from roster.errors import RosterError, nearest
from roster.library.adapter import Adapter

KINDS: dict[str, type[peft.PromptTuningConfig | peft.PromptEncoderConfig]] = {
    "PROMPT_TUNING": peft.PromptTuningConfig,
    "P_TUNING": peft.PromptEncoderConfig,
}
TENSOR = "prompt_embeddings"


def prompt_config(raw: Mapping[str, Any], where: str) -> peft.PromptTuningConfig | peft.PromptEncoderConfig:
    """The config; RosterError for what roster does not read, and for fields that the installed PEFT does not know."""
    kind = KINDS[str(raw["peft_type"])]
    if raw.get("modules_to_save"):
        raise RosterError(
            f"{where}: modules_to_save={raw['modules_to_save']!r} is not supported: it carries whole "
            "modules of its own, of which a mixture can have only one; train with modules_to_save=None"
        )
    if raw.get("task_type") not in (None, "CAUSAL_LM") or raw.get("num_transformer_submodules") not in (None, 1):
        raise RosterError(
            f"{where}: task_type={raw.get('task_type')!r}: roster puts soft prompts before the prompts of causal "
            "language models alone"
        )
    known = {field.name for field in fields(kind) if field.init} - {"peft_type"}
    for name in sorted(raw.keys() - known - {"peft_type"}):
        if raw[name]:
            raise RosterError(f"{where}: unknown field {name!r} = {raw[name]!r}: {nearest(name, known)}")
    try:
        return kind(**{name: value for name, value in raw.items() if name in known})
    except (TypeError, ValueError) as error:
        raise RosterError(f"{where}: {error}") from None


def prompt_of(tensors: Mapping[str, Tensor], config: peft.PromptLearningConfig, where: str) -> Tensor:
    """The vectors [V, D]; RosterError for any other tensor, or another number than the config says."""
    for key, tensor in tensors.items():
        if key != TENSOR or tensor.dim() != 2:
            raise RosterError(
                f"{where}: tensor {key!r} {list(tensor.shape)} is none of a soft prompt, which is {TENSOR!r} alone, "
                "[virtual tokens, width]"
            )
    prompt_VD = tensors[TENSOR]
    if len(prompt_VD) != config.num_virtual_tokens or not len(prompt_VD):
        raise RosterError(
            f"{where}: {TENSOR!r} has {len(prompt_VD)} virtual tokens, and the config says {config.num_virtual_tokens}"
        )
    return prompt_VD


def prompt_tensors(prompt_VD: Tensor) -> dict[str, Tensor]:
    """The tensors of a file, as PEFT names them."""
    return {TENSOR: prompt_VD.detach().cpu().contiguous().clone()}


def check_has_weights(adapter: Adapter, what: str) -> None:
    """RosterError for a soft prompt, where adapters are taken for what they do to weights.

    Args:
        adapter: any.
        what: what is done with it, as the subject of a sentence.
    """
    if adapter.prompt_VD is not None:
        raise RosterError(
            f"{what} takes what adapters do to the base's layers, and {adapter.name!r} is a soft prompt "
            f"({adapter.config.peft_type}), which stands before a prompt and changes no layer"
        )
