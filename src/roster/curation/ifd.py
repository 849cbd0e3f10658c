"""IFD, the selection of "cherry" rows: those whose prompt helps least to say the answer, yet helps.

Equation: IFD = s(A | Q) / s(A), s the mean of -log p over the tokens of the answer, with the prompt before it and
    without. Rows at 1 or above, whose prompt does not help at all, do not go with their answers and are left out; of
    the others those with the highest IFD come first.
Shapes: two forward passes per row, no gradients.
Trains: optionally a LoRA for a round, on a few rows of each of many clusters of prompts ("brief experience").
Siblings: `less` and `near` aim at a target; this asks how hard a row is.
Source: Li, Zhang, Li, Chen, Chen, Cheng, Wang, Zhou, Xiao, 2024, "From Quantity to Quality: Boosting LLM Performance
    with Self-Guided Data Selection for Instruction Tuning", arXiv:2308.12032 (MingLiiii/Cherry_LLM).
Differences: without the prompt, an answer is read after the tokenizer's token for a beginning (or the end of another
    text), so that its first token counts in both. The experience is a LoRA on as many rows as are asked for, in ten
    times fewer clusters, instead of a full training on 10 rows from each of 100.
Claim: not judged here yet.

Shape legend: N rows, B of a batch, S tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn import functional as F

from roster.curation.ground import Ground
from roster.curation.warming import warm_up
from roster.suiting.states import States
from roster.train.data import IGNORED, collate

_BATCH = 8
_PER_CLUSTER = 10


def ifd(ground: Ground) -> Tensor:
    """The IFD [N] of each row; minus infinity where it is 1 or above."""
    data, pad, model = ground.encoded(ground.pool), ground.rendering.pad_token_id, ground.model
    adapted = None
    if ground.warm_up:
        lesson = replace(ground.lesson, epochs=1)
        model, stages = warm_up(model, data, _from_clusters(ground), lesson, pad, ground.scratch)
        adapted = model
        stages[-1].wear(model)
    try:
        ratio_N = ground.blockwise("ifd", lambda start, stop: _ratios(model, ground, data.items[start:stop], pad))
    finally:
        if adapted is not None:
            adapted.unload()
    return ratio_N.masked_fill(ratio_N >= 1, -torch.inf)


def _ratios(model: Any, ground: Ground, items: Sequence[dict[str, Any]], pad: int) -> Tensor:
    tokenizer = ground.rendering.tokenizer
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    alone = []
    for item in items:
        answer = [label for label in item["labels"] if label != IGNORED]
        alone.append({"input_ids": [start, *answer], "labels": [IGNORED, *answer]})
    return answer_loss(model, items, pad) / answer_loss(model, alone, pad)


@torch.no_grad()
def answer_loss(model: Any, items: Sequence[dict[str, Any]], pad: int) -> Tensor:
    """Nats per token of each row's answer, [N]."""
    found = []
    for at in range(0, len(items), _BATCH):
        batch = {key: each.to(model.device) for key, each in collate(items[at : at + _BATCH], pad).items()}
        labels_BS = batch.pop("labels")[:, 1:]
        logits_BVS = model(**batch, use_cache=False).logits[:, :-1].float().transpose(1, 2)
        nats_BS = F.cross_entropy(logits_BVS, labels_BS, ignore_index=IGNORED, reduction="none")
        found.append(nats_BS.sum(1) / (labels_BS != IGNORED).sum(1).clamp_min(1))
    return torch.cat(found).cpu()


def _from_clusters(ground: Ground) -> list[int]:
    """Rows for a brief experience: those nearest to the centres of clusters of prompts, as many of each."""
    count = min(ground.warm_up, len(ground.pool))
    states_NF = States(ground.model, ground.rendering)([row.asked for row in ground.pool])
    clusters = max(1, min(count, len(ground.pool), -(-count // _PER_CLUSTER)))
    means = KMeans(n_clusters=clusters, n_init=3, random_state=ground.lesson.seed).fit(states_NF)
    far_N = np.linalg.norm(states_NF - means.cluster_centers_[means.labels_], axis=1)
    by_cluster = [[at for at in np.argsort(far_N) if means.labels_[at] == each] for each in range(clusters)]
    ranked = [rows[place] for place in range(len(ground.pool)) for rows in by_cluster if place < len(rows)]
    return sorted(int(at) for at in ranked[:count])
