"""When a row's expert is a soft prompt: its virtual tokens are put before the row's own, by which everything after them
is read.

`generate` puts them there once, before its first step, as embeddings beside the ids, so that caches, beams and masks
are transformers' own business. A plain forward call does it for itself, without a cache, and returns what is said
behind the row's own tokens, so that a caller need not know who has virtual tokens. A call that goes on with a cache by
hand is refused: its masks would not know of them.

Shape legend: B batch rows, S tokens of a call, E experts, K experts on duty.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from roster.context import DECISION, Context
from roster.errors import RosterError
from roster.experts.virtual_tokens import own_tokens, positions
from roster.routed.deciding import decided, on_duty, without_pads


def read_behind_virtual(model: Any, inputs: dict[str, Any], own: dict[str, Tensor | None]) -> Any:
    """A forward call whose rows may have virtual tokens.

    Args:
        model: a routed model with soft prompts among its experts.
        inputs: arguments of the base's forward.
        own: roster's: token_mask, prompt_mask, task_ids and gates.

    Returns:
        The model's output behind the rows' own tokens; it has no cache.

    Raises:
        RosterError: a cache, position ids or a token mask, which know nothing of virtual tokens.
    """
    mixture = model.roster
    for name in ("past_key_values", "position_ids"):
        if inputs.get(name) is not None:
            raise RosterError(
                f"{name} does not know of the virtual tokens that soft prompts put before a row: leave it out, and "
                "write texts by `generate`"
            )
    if own["token_mask"] is not None:
        raise RosterError("soft prompts need an attention mask of [batch, tokens] instead of a token_mask")
    if inputs.get("input_ids") is None and inputs.get("inputs_embeds") is None:
        raise RosterError("a routed model needs input_ids or inputs_embeds")
    tokens = inputs["input_ids"] if inputs.get("input_ids") is not None else inputs["inputs_embeds"]
    B, S = tokens.shape[:2]
    known: dict[str, Any] = {}
    gates_BE = own["gates"]
    if gates_BE is None and mixture.plan.decides:
        context = model._context(inputs, None, own["prompt_mask"], own["task_ids"])
        known["decision_B2K"] = decided(model, context, inputs)
        known["duty"] = on_duty(known["decision_B2K"])
    if gates_BE is None:
        gates_BE = _serving(model, B, own["task_ids"], known.get("decision_B2K"))
    given = {**inputs, "use_cache": False, "prompt_mask": own["prompt_mask"]}
    longer = mixture.virtual.put_before(given, model.get_input_embeddings(), gates_BE)
    if longer and "position_ids" in type(model).input_names:
        given["position_ids"] = positions(given["attention_mask"])
    as_tuple = given.pop("return_dict", None) is False or not getattr(model.config, "return_dict", True)
    with mixture.generation.whole(**known):
        output = model.forward(**given, task_ids=own["task_ids"], gates=own["gates"], return_dict=True)
    output = own_tokens(output, S)
    return output.to_tuple() if as_tuple else output


def put_virtual_ahead(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Puts virtual tokens before the prompts of a `generate` that is about to begin, among its keyword arguments.

    Raises:
        RosterError: no prompt to put them before, a cache of another call, or a context that is too short for them.
    """
    mixture, generation = model.roster, model.roster.generation
    ids_BP = args[0] if args else kwargs.get("inputs", kwargs.get("input_ids"))
    embeds = kwargs.get("inputs_embeds")
    tokens: Tensor | None = ids_BP if embeds is None else embeds
    if tokens is None or tokens.shape[1] == 0:
        raise RosterError("soft prompts stand before a prompt: give one of at least one token")
    cache = kwargs.get("past_key_values")
    if cache is not None and not mixture.plan.decides and int(cache.get_seq_length()) > 0:
        raise RosterError("the cache of an earlier call does not tell whose virtual tokens it began with: begin anew")
    mask_BP = kwargs.get("attention_mask")
    if mask_BP is None and embeds is None:
        mask_BP = without_pads(model, tokens)
    given = {"inputs_embeds" if embeds is not None else "input_ids": tokens, "attention_mask": mask_BP}
    gates_BE = _serving(model, len(tokens), generation.task_ids_B, generation.decision_B2K)
    longer = mixture.virtual.put_before(given, model.get_input_embeddings(), gates_BE)
    generation.extended = True
    if not longer:
        return
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and tokens.shape[1] + longer > limit:
        raise RosterError(
            f"the prompt has {tokens.shape[1]} tokens and {longer} virtual ones before it, but the model's context "
            f"holds {limit}"
        )
    generation.begin_with(longer)
    kwargs.update(inputs_embeds=given["inputs_embeds"], attention_mask=given["attention_mask"])


def _serving(model: Any, batch: int, task_ids: Tensor | None, decision_B2K: Tensor | None) -> Tensor:
    """Who serves each row, [B, E], where every row has one expert at most: what the router says to a single token."""
    mixture = model.roster
    if mixture.plan.routes_by_task:
        model._check_tasks(task_ids, batch)
    context = Context(batch, 1, task_ids_B=task_ids)
    if decision_B2K is not None:
        context.memory[DECISION] = decision_B2K
    gates_BE: Tensor = mixture.router(torch.empty(batch, 0, device=model.device), context).dense()
    return gates_BE
