"""What a contender costs: seconds for a fixed batch and a fixed number of new tokens, in turn with the base's."""

from __future__ import annotations

import copy
import statistics
import time
from typing import TYPE_CHECKING, Any

import torch

from roster.routed.becoming import detach

if TYPE_CHECKING:
    from roster.arena.contenders import Contender
    from roster.arena.mix import Arena

ROUNDS, BATCH, NEW_TOKENS = 5, 8, 16


def relative_time(model: Any, arena: Arena, contender: Contender) -> float:
    """Median over rounds of (contender's seconds / base's seconds), each round back to back after a warm-up."""
    base = model
    if hasattr(model, "roster"):
        base = copy.deepcopy(model)
        detach(base)
    elif model is not arena.base:
        base = arena.base
    ratios = []
    for turn in range(-1, ROUNDS):
        ratio = _seconds(model, arena, contender) / _seconds(base, arena, None)
        if turn >= 0:
            ratios.append(ratio)
    return statistics.median(ratios)


def _seconds(model: Any, arena: Arena, contender: Contender | None) -> float:
    asked = arena.asked[:: max(1, len(arena.asked) // BATCH)][:BATCH]
    inputs = arena.tokenizer([each.prompt for each in asked], return_tensors="pt", padding=True, padding_side="left")
    extra = {}
    if contender is not None and contender.task is not None:
        extra["tasks"] = [contender.task(each) for each in asked]
    start = time.perf_counter()
    with torch.inference_mode():
        model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=NEW_TOKENS,
            do_sample=False,
            **extra,
        )
    return time.perf_counter() - start
