"""Measuring a model on prompts with known answers: greedy answers in batches, and intervals for the figures.

Shape legend: N examples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from roster.errors import RosterError
from roster.prompts import Prompt, Rendering, padded, words


@torch.inference_mode()
def answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    *,
    tasks: Sequence[str | None] | None = None,
    batch_size: int = 64,
    max_new_tokens: int = 32,
    progress: Callable[[int], None] | None = None,
) -> list[str]:
    """What a model says greedily to each prompt, in their order.

    Args:
        model: any causal LM.
        tokenizer: of the model, or a `Rendering` of it.
        prompts: texts or chats of any lengths; those of like length share a batch, padded on the left.
        tasks: of each prompt, for models that route by task.
        batch_size: prompts per batch.
        max_new_tokens: where an answer is cut off.
        progress: called with the number of prompts that have just been answered.

    Raises:
        RosterError: an empty prompt, or one that leaves no room for an answer; says which.
    """
    rendering = Rendering.of(tokenizer)
    rows = check_lengths(model, rendering, prompts, max_new_tokens)
    told = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda at: len(rows[at]))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        inputs = padded([rows[at] for at in batch], rendering.pad_token_id)
        ids = inputs["input_ids"].to(model.device)
        extra = {} if tasks is None else {"tasks": [tasks[at] for at in batch]}
        out = model.generate(
            input_ids=ids,
            attention_mask=inputs["attention_mask"].to(model.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=rendering.pad_token_id,
            **extra,
        )
        for at, text in zip(
            batch, rendering.tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True), strict=True
        ):
            told[at] = text
        if progress is not None:
            progress(len(batch))
    return told


def check_lengths(
    model: Any, tokenizer: Any, prompts: Sequence[Prompt], max_new_tokens: int, names: Sequence[str] | None = None
) -> list[list[int]]:
    """The tokens of each prompt; RosterError for the first that is empty, no text, or too long for the context.

    Args:
        model, tokenizer, prompts, max_new_tokens: as for `answers`.
        names: what to call each prompt in the error; by default its number.
    """
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    rendering, rows = Rendering.of(tokenizer), []
    names = [f"prompt {number}" for number in range(1, len(prompts) + 1)] if names is None else names
    for name, prompt in zip(names, prompts, strict=True):
        row = _tokens(rendering, prompt, name)
        if limit is not None and len(row) + max_new_tokens > limit:
            raise RosterError(
                f"{name} has {len(row)} tokens, which with an answer of {max_new_tokens} "
                f"is more than the model's context of {limit}"
            )
        rows.append(row)
    return rows


def _tokens(rendering: Rendering, prompt: Prompt, name: str) -> list[int]:
    said = words(prompt)
    if not said:
        raise RosterError(f"{name} is empty")
    try:
        said.encode()
    except UnicodeEncodeError:
        raise RosterError(f"{name} is not valid Unicode text: {said[:80]!r}") from None
    try:
        row = rendering.ids(prompt)
    except RosterError as error:
        raise RosterError(f"{name}: {error}") from None
    if not row:
        raise RosterError(f"{name} has no tokens: {said[:80]!r}")
    return row


def wilson(correct: float, total: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a share (Wilson, 1927)."""
    if total == 0:
        return 0.0, 1.0
    z = 1.959964
    share = correct / total
    center = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return max(0.0, center - half), min(1.0, center + half)
