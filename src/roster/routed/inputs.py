"""From a model's inputs to a `Context`.

Shape legend: B batch rows, S tokens of this call, L tokens so far.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from roster.context import Context
from roster.errors import RosterError


def context_of(
    inputs: dict[str, Any], token_mask: Tensor | None, prompt_mask: Tensor | None, reads_prompt: bool = False
) -> Context:
    """Reads what a router may know off the keyword arguments of a transformers model.

    Args:
        inputs: keyword arguments of the model's forward.
        token_mask: True for real tokens of this call, [B, S]; read off the attention mask when None.
        prompt_mask: True for prompt tokens, [B, S]; when None, read off the labels where there are any.
        reads_prompt: whether it is an error that labels leave a row without a prompt.
    """
    input_ids = inputs.get("input_ids")
    tokens = input_ids if input_ids is not None else inputs.get("inputs_embeds")
    if tokens is None:
        raise RosterError("a routed model needs input_ids or inputs_embeds")
    B, S = tokens.shape[:2]
    if S == 0:
        raise RosterError("the prompt is empty: a routed model needs at least one token")
    mask_BS = _mask(token_mask, inputs.get("attention_mask"), S)
    labels = inputs.get("labels")
    if prompt_mask is None and labels is not None and labels.shape == (B, S):
        prompt_mask = (labels != -100).cumsum(1) == 0
        if reads_prompt:
            _check_prompts(prompt_mask, mask_BS)
    return Context(B, S, mask_BS, input_ids, prompt_mask)


def contexts_of(inputs: dict[str, Any], token_mask: Tensor | None) -> Context:
    """The same for a model with an encoder: its encoder's tokens, and beside them its decoder's.

    Args:
        inputs: keyword arguments of the model's forward; a decoding step brings `encoder_outputs` instead of ids.
        token_mask: of the encoder's tokens.
    """
    ids, embeds, encoded = (inputs.get(each) for each in ("input_ids", "inputs_embeds", "encoder_outputs"))
    tokens = next((each for each in (ids, embeds) if each is not None), None if encoded is None else encoded[0])
    if tokens is None:
        raise RosterError("a routed model needs input_ids, inputs_embeds or encoder_outputs")
    B, S = tokens.shape[:2]
    if S == 0:
        raise RosterError("the prompt is empty: a routed model needs at least one token")
    context = Context(B, S, _mask(token_mask, inputs.get("attention_mask"), S), ids)
    # What a decoder is not given it makes of the labels, one place to the right, or (BART) of what the encoder reads.
    given = (inputs.get(each) for each in ("decoder_input_ids", "decoder_inputs_embeds", "labels"))
    read = next((each for each in given if each is not None), tokens)
    B, S = read.shape[:2]
    mask_BS = _mask(None, inputs.get("decoder_attention_mask"), S)
    context.decoder = Context(B, S, mask_BS, inputs.get("decoder_input_ids"))
    return context


def _mask(token_mask: Tensor | None, attention_mask: Any, S: int) -> Tensor | None:
    """[B, S] bool; None when every token is real, as far as that can be seen without waiting."""
    mask_BS = token_mask if token_mask is not None else _real_tokens(attention_mask, S)
    if mask_BS is None:
        return None
    mask_BS = mask_BS.to(torch.bool)
    # On a CPU it costs nothing to find out that there is no padding; on a device it would mean waiting for it.
    if mask_BS.device.type == "cpu" and not torch.compiler.is_compiling() and bool(mask_BS.all()):
        return None
    return mask_BS


def _check_prompts(prompt_BS: Tensor, mask_BS: Tensor | None) -> None:
    """A row without a prompt would be routed by nothing and train nothing; on a device, finding out would cost time."""
    if prompt_BS.device.type != "cpu" or torch.compiler.is_compiling():
        return
    prompted_B = (prompt_BS if mask_BS is None else prompt_BS & mask_BS).any(1)
    if not bool(prompted_B.all()):
        raise RosterError(
            f"this recipe routes by the prompt, but every token of row {int((~prompted_B).nonzero()[0])} has a label: "
            "set the labels of prompt tokens to -100, or pass prompt_mask="
        )


def _real_tokens(attention_mask: Any, S: int) -> Tensor | None:
    """[B, S] from a mask in any of the forms that transformers passes around."""
    if isinstance(attention_mask, dict):
        attention_mask = next((mask for mask in attention_mask.values() if mask is not None), None)
    if attention_mask is None:
        return None
    if attention_mask.dim() == 2:
        latest_BS: Tensor | None = attention_mask[:, -S:]
        return latest_BS
    raise RosterError(
        f"the attention mask has {attention_mask.dim()} dimensions, which does not tell which tokens are padding: "
        "pass token_mask= ([batch, tokens], True for real tokens) along with it"
    )
