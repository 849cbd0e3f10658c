"""What roster does not read, by the name that PEFT gives it. One table; each row says what to do instead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import peft

from roster.errors import RosterError, nearest


@dataclass(frozen=True)
class Refusal:
    """A field of `adapter_config.json` that changes what the adapter computes."""

    field: str
    refused: Callable[[Any], bool]
    why: str


_CHANGES_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")

REFUSALS = (
    Refusal("use_dora", bool, "DoRA rescales the base's weights; merge it into a model, or train plain LoRA"),
    Refusal("modules_to_save", bool, "it carries whole modules of its own (a head, say), of which a mixture can have "
            "only one; save them into the base, or train with modules_to_save=None"),
    Refusal("trainable_token_indices", bool, "it changes embeddings; train without it"),
    Refusal("target_parameters", bool, "it adapts bare parameters instead of linear layers"),
    Refusal("layer_replication", bool, "it changes the base's layers"),
    Refusal("bias", lambda bias: bias not in (None, "none"), "it trains the base's biases; train with bias='none'"),
    Refusal("lora_bias", bool, "it adds a bias to B; train with lora_bias=False"),
    Refusal("init_lora_weights", lambda init: isinstance(init, str) and init.lower().startswith(_CHANGES_THE_BASE),
            "this initialisation changes the base's weights; convert the adapter with PEFT's "
            "path_initial_model_for_weight_conversion when saving it"),
    Refusal("megatron_config", bool, "Megatron's parallel layers are not linear layers"),
    Refusal("alora_invocation_tokens", bool, "aLoRA is active only after its tokens"),
    Refusal("use_qalora", bool, "QA-LoRA pools its input in groups"),
    Refusal("velora_config", bool, "VeLoRA is not plain LoRA"),
    Refusal("monteclora_config", bool, "MonteCLoRA is not plain LoRA"),
    Refusal("use_bdlora", bool, "block-diagonal LoRA is not plain LoRA"),
    Refusal("arrow_config", bool, "this is PEFT's Arrow router, not an expert; give roster the experts"),
    Refusal("kasa_config", bool, "KaSA changes the base's weights"),
    Refusal("ensure_weight_tying", bool, "tied adapters of embeddings are not linear layers"),
)  # fmt: skip


def check_config(config: dict[str, Any], where: str) -> None:
    """Refuses an adapter that plain LoRA cannot express.

    A field that this PEFT does not know is ignored while it is empty, and refused when it says something: nobody can
    tell what it would have changed.

    Raises:
        RosterError: names the file, the field, its value and what to do.
    """
    kind = config.get("peft_type")
    if kind != "LORA":
        raise RosterError(f"{where}: peft_type is {kind!r}; roster reads LORA adapters only")
    for refusal in REFUSALS:
        value = config.get(refusal.field)
        if refusal.refused(value):
            raise RosterError(f"{where}: {refusal.field}={value!r} is not supported: {refusal.why}")
    known = {field.name for field in fields(peft.LoraConfig)}
    for name in sorted(config.keys() - known):
        if config[name]:
            raise RosterError(f"{where}: unknown field {name!r} = {config[name]!r}: {nearest(name, known)}")
