"""What a way of answering costs: time for a fixed batch in turn with the base's, and how often tokens are read.

Shape legend: B prompts, S tokens of a call.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from roster.routed.becoming import detach

ROUNDS, BATCH, NEW_TOKENS = 5, 8, 16


def plain_copy(model: Any) -> Any:
    """A copy of the model without anything attached to it."""
    copied = copy.deepcopy(model)
    return detach(copied) if hasattr(copied, "roster") else copied


def relative_time(model: Any, base: Any, inputs: Mapping[str, Any], rounds: int = ROUNDS) -> float:
    """Median over rounds of (the model's seconds / the base's), each round back to back after a warm-up.

    Args:
        model: what is timed.
        base: a plain model beside it.
        inputs: for `generate`; `tasks` goes to the model alone.
        rounds: how many.
    """
    alone = {name: each for name, each in inputs.items() if name != "tasks"}
    ratios = []
    for turn in range(-1, rounds):
        ratio = _seconds(model, inputs) / _seconds(base, alone)
        if turn >= 0:
            ratios.append(ratio)
    return statistics.median(ratios)


def reads(model: Any, inputs: Mapping[str, Any]) -> tuple[float, float]:
    """How often the model's first block reads each token of the prompts, and each token of the answers.

    (1, 1) is what a plain model does; a router that reads the prompt once more before it decides has (2, 1).
    """
    block = next(each[0] for each in model.modules() if isinstance(each, nn.ModuleList) and len(each))
    seen = {True: 0, False: 0}

    def count(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden_BSD = args[0] if args else kwargs["hidden_states"]
        seen[hidden_BSD.shape[1] > 1] += hidden_BSD.shape[0] * hidden_BSD.shape[1]

    hook = block.register_forward_pre_hook(count, with_kwargs=True)
    try:
        _seconds(model, inputs)
    finally:
        hook.remove()
    B, S = inputs["input_ids"].shape
    return seen[True] / (B * S), seen[False] / (B * (NEW_TOKENS - 1))


def _seconds(model: Any, inputs: Mapping[str, Any]) -> float:
    start = time.perf_counter()
    with torch.inference_mode():
        model.generate(**inputs, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False)
    return time.perf_counter() - start
