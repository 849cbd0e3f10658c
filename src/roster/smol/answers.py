"""Greedy answers to chats, and how many are right: exactly, but for white space around them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from roster.prompts import Prompt, Rendering
from roster.smol.skills import Question

NEW_TOKENS = 24
"""Longer than any right answer."""


@torch.no_grad()
def answers(model: Any, tokenizer: Any, chats: Sequence[Prompt], batch: int = 40) -> list[str]:
    """The model's greedy answer to each chat.

    Args:
        model: a causal model.
        tokenizer: with a chat template.
        chats: messages in transformers' form.
        batch: chats at a time.
    """
    rendering, found = Rendering(tokenizer), []
    for start in range(0, len(chats), batch):
        inputs = rendering.inputs(chats[start : start + batch])
        made = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=rendering.pad_token_id)
        found += tokenizer.batch_decode(made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [each.strip() for each in found]


def accuracy(model: Any, tokenizer: Any, asked: Sequence[Question]) -> float:
    """Share of exact answers."""
    given = answers(model, tokenizer, [each.messages for each in asked])
    return sum(said == each.answer for said, each in zip(given, asked, strict=True)) / len(asked)
