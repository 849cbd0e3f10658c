"""Which of several adapters with the same examples serves: the one whose answers tell most about the prompts.

There are no right answers to compare with. But a sound adapter is sure of its answers, and answers different prompts
differently; one that was disturbed or trained too little is less sure, or says the same to everybody. So each reads a
few examples, and what counts is

    H(mean of p) - 2 mean of H(p),    p the distribution of an answer's first token, H its entropy,

which is the information that the answer holds about the prompt, less what is left open. Adapters with the same weights
need no duel. Nothing of it is published; what it finds is measured in docs/results/auto.md.

Shape legend: N prompts, V vocabulary, T tokens.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from roster.library import Adapter, Library
from roster.library.wearing import wearing
from roster.prompts import Rendering, padded

PROMPTS = 8


def champions(model: Any, library: Library, rendering: Rendering, class_E: Sequence[int]) -> list[int]:
    """The expert that stands for each class.

    Args:
        model: the plain base.
        library: the experts.
        rendering: how prompts become tokens.
        class_E: of each expert, numbered from 0.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for expert, number in enumerate(class_E):
        members[number].append(expert)
    return [champion(model, library, rendering, members[number]) for number in sorted(members)]


def champion(model: Any, library: Library, rendering: Rendering, members: Sequence[int]) -> int:
    """The one of some experts of one class that stands for it.

    Args:
        model, library, rendering: as for `champions`.
        members: indices of experts.
    """
    adapters = {expert: library[library.names[expert]] for expert in members}
    different = {adapter.weights_hash: expert for expert, adapter in reversed(adapters.items())}
    if len(different) == 1:
        return members[0]
    prompts = [prompt for adapter in adapters.values() for prompt in adapter.card.examples]
    ids = [rendering.ids(prompt) for prompt in prompts[:: max(1, len(prompts) // PROMPTS)][:PROMPTS]]
    worth = {expert: _worth(model, adapters[expert], ids) for expert in sorted(different.values())}
    return max(worth, key=lambda expert: worth[expert])


@torch.no_grad()
def _worth(model: Any, adapter: Adapter, rows: Sequence[Sequence[int]]) -> float:
    inputs = {name: each.to(model.device) for name, each in padded(rows, 0, "right").items()}
    place_N = torch.tensor([len(row) - 1 for row in rows], device=model.device)
    only = {}
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        # Where a model can, it works out logits of places alone where some row ends.
        only["logits_to_keep"], place_N = place_N.unique(return_inverse=True)
    with wearing(model, adapter):
        logits_NSV = model(**inputs, use_cache=False, **only).logits
    p_NV = logits_NSV[torch.arange(len(rows), device=logits_NSV.device), place_N].float().softmax(1)
    if not bool(p_NV.isfinite().all()):
        return -float("inf")
    return float(_entropy(p_NV.mean(0, keepdim=True))[0] - 2 * _entropy(p_NV).mean())


def _entropy(p_NV: Tensor) -> Tensor:
    entropy_N: Tensor = torch.special.entr(p_NV).sum(1)
    return entropy_N
