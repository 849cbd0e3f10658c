"""When a prompt is decided on: once, by a pass of the base over it alone, and not again while its answer is written.

`generate` decides before its first step, anew for every turn of a chat. A plain forward call decides when it begins a
KV cache (or has none); the calls that go on with the cache read the decision from it. How a decision is made is the
business of the mixture's head; it is K experts and their weights per row, [B, 2, K] (see `roster.score.Decided`).

In a chat whose cache is kept from turn to turn, a turn that goes to other experts than the one before finds keys and
values that those have made. By default they are made anew, with the cache emptied; `Plan.keeps_cache` leaves them.

Shape legend: B batch rows, S tokens of this call, K experts on duty, F features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from roster.context import DECISION, DUTY, Context
from roster.routed.history import CacheHistory
from roster.routed.taps import read


def decide(model: Any, context: Context, inputs: dict[str, Any]) -> None:
    """Leaves the decision of every row of a call in the context's memory, and in the cache."""
    generation, history = model.roster.generation, context.history
    decision_B2K = generation.decision_of(context.batch)
    if decision_B2K is None:

        def make() -> Tensor:
            return decided(model, context, inputs).flatten(1)

        decision_BX = make() if history is None else history.latest(DECISION, make)
        decision_B2K = decision_BX.unflatten(1, (2, -1))
    if history is not None:
        history.append(DECISION, decision_B2K.flatten(1)[:, None].expand(-1, context.length, -1))
    context.memory[DECISION] = decision_B2K
    context.memory[DUTY] = generation.duty if generation.duty is not None else on_duty(decision_B2K)


def decide_ahead(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Decides on the prompts of a `generate` that is about to begin; takes care of a cache of earlier turns."""
    ids_BP = args[0] if args else kwargs.get("inputs", kwargs.get("input_ids"))
    embeds = kwargs.get("inputs_embeds")
    tokens: Tensor | None = ids_BP if embeds is None else embeds
    if tokens is None or tokens.shape[1] == 0:
        return  # transformers begins with a token of its own
    mask_BP = kwargs.get("attention_mask")
    if mask_BP is None and embeds is None:
        mask_BP = without_pads(model, tokens)
    inputs = {"input_ids": ids_BP} if embeds is None else {"inputs_embeds": embeds}
    generation = model.roster.generation
    B, P = tokens.shape[:2]
    context = Context(B, P, None if mask_BP is None else mask_BP.bool(), ids_BP, generation.prompt_BP)
    generation.decision_B2K = decided(model, context, inputs)
    generation.duty = on_duty(generation.decision_B2K, wait=True)
    cache = kwargs.get("past_key_values")
    history = getattr(cache, "roster_history", None)
    if history is not None and not model.roster.plan.keeps_cache:
        _settle(cache, history, generation.decision_B2K)


def decided(model: Any, context: Context, inputs: dict[str, Any]) -> Tensor:
    """A fresh decision for the prompts of a call, [B, 2, K]."""
    mixture = model.roster
    decision_B2K: Tensor = mixture.head(prompt_features(model, context, inputs))
    return decision_B2K


def prompt_features(model: Any, context: Context, inputs: dict[str, Any]) -> Tensor:
    """What the head decides by, [B, F]: hidden states of the base, or the prompts as texts where it reads those."""
    mixture = model.roster
    if getattr(mixture.head, "reads_text", False):
        found: Tensor = mixture.head.features_of_text(mixture.rendering, context)
        return found
    found = mixture.head.features(prompt_states(model, context, inputs, mixture.head.blocks), context)
    return found


def prompt_states(model: Any, context: Context, inputs: dict[str, Any], blocks: tuple[int, ...]) -> dict[int, Tensor]:
    """Hidden states of the base alone, [B, S, D] after each of the blocks."""
    keys = ("input_ids", "inputs_embeds", "position_ids", "token_type_ids")
    body = {key: inputs[key] for key in keys if inputs.get(key) is not None}
    if context.mask_BS is not None:
        body["attention_mask"] = context.mask_BS.long()
    found: dict[int, Tensor] = {}
    slot, alone = model.roster.slot, Context(context.batch, context.length, off=True)
    with slot.use(alone):
        read(model, model.roster.wish, body, blocks, found.__setitem__)
    return found


def on_duty(decision_B2K: Tensor, wait: bool = False) -> tuple[int, ...] | None:
    """The experts that any row needs; None where finding out would mean waiting for a device.

    Args:
        decision_B2K: of all rows.
        wait: find out all the same.
    """
    if torch.compiler.is_compiling() or not (wait or decision_B2K.device.type == "cpu"):
        return None
    expert_BK, weight_BK = decision_B2K.unbind(1)
    return tuple(expert_BK[weight_BK != 0].unique().long().tolist())


def _settle(cache: Any, history: CacheHistory, decision_B2K: Tensor) -> None:
    """Empties a cache whose rows were read by other experts than those that now go on."""
    flat_BX = decision_B2K.flatten(1)
    before_BX = history.latest(DECISION, lambda: flat_BX)
    if before_BX.shape == flat_BX.shape and torch.equal(before_BX.to(flat_BX), flat_BX):
        return
    cache.reset()


def without_pads(model: Any, ids_BP: Tensor) -> Tensor | None:
    """The mask that transformers infers where none is given: pads are no tokens, unless they are ends too."""
    pad, end = (getattr(model.generation_config, name, None) for name in ("pad_token_id", "eos_token_id"))
    ends = end if isinstance(end, list) else [end]
    return None if pad is None or pad in ends else ids_BP != pad
