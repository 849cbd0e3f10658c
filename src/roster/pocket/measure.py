"""Exact-match accuracy by real greedy generation, in batches of like length."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from roster.pocket.skills import Example, examples, is_correct

BATCH = 256
NEW_TOKENS = 28
"""More than any answer and its end of sequence need."""


@torch.inference_mode()
def complete(model: Any, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str]) -> list[str]:
    """What ``model`` generates greedily after each prompt, without special tokens; in the order of ``prompts``."""
    order = sorted(range(len(prompts)), key=lambda at: len(prompts[at]))
    texts = [""] * len(prompts)
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        inputs = tokenizer([prompts[at] for at in batch], return_tensors="pt", padding=True)
        ids = model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
        )
        told = tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for at, text in zip(batch, told, strict=True):
            texts[at] = text
    return texts


def accuracy(
    model: PreTrainedModel | Any,
    tokenizer: PreTrainedTokenizerFast,
    skills: Iterable[str],
    split: str,
    count: int,
    seed: int = 0,
) -> dict[str, float]:
    """The share of right answers in ``[0, 1]`` for each skill, over ``count`` examples of ``split`` each."""
    asked: dict[str, list[Example]] = {skill: examples(skill, split, count, seed) for skill in skills}
    flat = [example for each in asked.values() for example in each]
    told = complete(model, tokenizer, [example.prompt for example in flat])
    right = dict.fromkeys(asked, 0)
    for example, text in zip(flat, told, strict=True):
        right[example.skill] += is_correct(example, text)
    return {skill: round(right[skill] / len(asked[skill]), 4) for skill in asked}


def relay_accuracy(
    adapted: Any, tokenizer: PreTrainedTokenizerFast, skills: Iterable[str], split: str, count: int
) -> dict[str, float]:
    """The bound for composed skills: the first part's expert writes up to the ``&``, the second's goes on from there.

    Args:
        adapted: a PEFT model that holds an adapter for each part, under the part's name.
        skills: composed skills.
        split: as in ``examples``.
        count: examples per skill.

    Returns:
        The share of right answers in ``[0, 1]`` for each skill.
    """
    shares = {}
    for skill in skills:
        asked = examples(skill, split, count)
        first, second = asked[0].parts
        adapted.set_adapter(first)
        begun = [text.split(" & ")[0] + " & " for text in complete(adapted, tokenizer, [each.prompt for each in asked])]
        adapted.set_adapter(second)
        ended = complete(adapted, tokenizer, [each.prompt + start for each, start in zip(asked, begun, strict=True)])
        right = [is_correct(each, start + end) for each, start, end in zip(asked, begun, ended, strict=True)]
        shares[skill] = round(sum(right) / count, 4)
    return shares
