"""Finding a router's constant weights without gradients: the loss of rows of data is asked for, and nothing else.

Shape legend: E experts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from roster.errors import RosterError
from roster.prompts import Rendering
from roster.score import Constant
from roster.train.data import Encoded, Row, collate
from roster.train.fit import Settings


def search(model: Any, rows: Sequence[Row], tokenizer: Any, settings: Settings = Settings()) -> dict[str, Any]:  # noqa: B008
    """Searches as the recipe says, and leaves the weights that it found in the router.

    Args:
        model: a routed model whose plan has a `search` and one router with constant scores for all layers.
        rows: the data; all of them at every ask.
        tokenizer: of the base, or a `Rendering` of it.
        settings: its steps are how often the loss is asked for, at least twice.

    Returns:
        A record: settings, weights by expert, the lowest loss, seconds.
    """
    mixture = model.roster
    find, router = mixture.plan.search, mixture.router
    if find is None or router is None or not isinstance(router.score, Constant):
        raise RosterError(f"recipe {mixture.recipe!r} searches for nothing")
    rendering = Rendering.of(tokenizer)
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    items = Encoded(rows, rendering, limit).items
    batches = [items[at : at + settings.batch_size] for at in range(0, len(items), settings.batch_size)]
    encoded = [collate(batch, pad=rendering.pad_token_id) for batch in batches]
    score, lowest = router.score, float("inf")

    @torch.no_grad()
    def loss(weight_E: Tensor) -> float:
        nonlocal lowest
        score.scores_E.copy_(weight_E)
        total, answers = 0.0, 0
        for batch in encoded:
            told = int((batch["labels"][:, 1:] >= 0).sum())
            given = {name: tensor.to(model.device) for name, tensor in batch.items()}
            total, answers = total + told * float(model(**given, use_cache=False).loss), answers + told
        lowest = min(lowest, total / answers)
        return total / answers

    start, was_training = time.monotonic(), model.training
    model.eval()
    try:
        found_E = find(loss, score.scores_E.detach().cpu().clone(), max(settings.steps, 2), settings.seed)
    finally:
        model.train(was_training)
    with torch.no_grad():
        score.scores_E.copy_(found_E)
    weights = {name: round(float(w), 4) for name, w in zip(mixture.experts, found_E, strict=True)}
    seconds = round(time.monotonic() - start, 1)
    return {"settings": asdict(settings), "weights": weights, "lowest": round(lowest, 4), "seconds": seconds}
