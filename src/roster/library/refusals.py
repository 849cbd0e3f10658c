"""What roster does not read, by the name that PEFT gives it. One table; each row says what to do instead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import peft

from roster.errors import RosterError, nearest


@dataclass(frozen=True)
class Refusal:
    """A field of `adapter_config.json` that changes what the adapter computes, or what its file holds.

    Attributes:
        field: PEFT's name for it.
        refused: whether a value of it is refused.
        why: the reason, and what to do.
    """

    field: str
    refused: Callable[[Any], bool]
    why: str


def _given(value: Any) -> bool:
    # PEFT turns an empty sub-config into one of defaults, so {} is switched on.
    return value is not None and value is not False


def _changes_the_base(init: Any) -> bool:
    return isinstance(init, str) and init.lower().startswith(("pissa", "olora", "corda", "loftq", "lora_ga"))


REFUSALS = (
    Refusal("modules_to_save", bool, "it carries whole modules of its own (a head, say), of which a mixture can have "
            "only one; save them into the base, or train with modules_to_save=None"),
    Refusal("trainable_token_indices", bool, "it changes embeddings; train without it"),
    Refusal("target_parameters", bool, "it adapts bare parameters; train with target_modules, on linear layers"),
    Refusal("layer_replication", bool, "it changes the base's layers; save the replicated base and adapt that"),
    Refusal("bias", lambda bias: bias not in (None, "none"), "it trains the base's biases; train with bias='none'"),
    Refusal("lora_bias", bool, "it adds a bias to B; train with lora_bias=False"),
    Refusal("init_lora_weights", _changes_the_base, "this initialisation changed the base's weights, so the file "
            "belongs to a base that nobody else has; convert it with `save_pretrained(..., "
            "path_initial_model_for_weight_conversion=...)`, or save the changed base and set this field to true"),
    Refusal("megatron_config", _given, "Megatron's parallel layers are not linear layers; export to transformers"),
    Refusal("alora_invocation_tokens", bool, "aLoRA is active only after its tokens; train plain LoRA"),
    Refusal("use_qalora", bool, "QA-LoRA pools its input in groups; train plain LoRA"),
    Refusal("velora_config", _given, "VeLoRA saves buffers of its training with the weights; save the adapter again "
            "with velora_config=None, which computes the same"),
    Refusal("monteclora_config", _given, "MonteCLoRA saves its sampler with the weights; save the adapter again with "
            "monteclora_config=None, which computes the same at evaluation"),
    Refusal("use_bdlora", _given, "block-diagonal LoRA is stored in blocks; train plain LoRA"),
    Refusal("arrow_config", _given, "this is PEFT's Arrow router, not an expert; give roster the experts"),
    Refusal("kasa_config", _given, "KaSA cuts singular values off the base's weights; train plain LoRA"),
    Refusal("ensure_weight_tying", bool, "it ties updates of embeddings and head; train linear layers only"),
)  # fmt: skip


_OTHERS = {
    "PREFIX_TUNING": "it gives keys and values to every layer of the base; train PROMPT_TUNING or a LoRA",
    "MULTITASK_PROMPT_TUNING": "its vectors depend on a task; save them as PROMPT_TUNING, one folder a task",
}
"""Why other kinds that people have are not read."""


def check_config(config: dict[str, Any], where: str) -> None:
    """Refuses an adapter that neither LoRA nor DoRA can express.

    A field that the installed PEFT does not know is ignored while it is empty (null, false, 0, "", [] or {}), as a
    newer PEFT writes the fields of features that are switched off. When it says something it is refused: nobody can
    tell what it would have changed.

    Args:
        config: what `adapter_config.json` holds.
        where: the file, for the message.

    Raises:
        RosterError: names the file, the field, its value and what to do.
    """
    kind = config.get("peft_type")
    if kind != "LORA":
        why = _OTHERS.get(str(kind), "train or export a LoRA")
        raise RosterError(
            f"{where}: peft_type is {kind!r}; roster reads LORA, ADALORA, IA3, PROMPT_TUNING "
            f"and P_TUNING adapters only: {why}"
        )
    for refusal in REFUSALS:
        value = config.get(refusal.field)
        if refusal.refused(value):
            raise RosterError(f"{where}: {refusal.field}={value!r} is not supported: {refusal.why}")
    known = {field.name for field in fields(peft.LoraConfig)}
    for name in sorted(config.keys() - known):
        if config[name]:
            raise RosterError(
                f"{where}: unknown field {name!r} = {config[name]!r}: {nearest(name, known)} (a newer PEFT than the "
                f"installed {peft.__version__} may have written it: update PEFT, or remove the field if it does not "
                "change what the adapter computes)"
            )
