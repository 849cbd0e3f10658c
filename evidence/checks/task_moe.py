"""Task-MoE's own claims: a task's sub-network answers as the full mixture does with far fewer parameters, and routing
by task beats routing by token.

Small language models of the arena; its three domains are the tasks. The baseline is GShard's top-2 routing by token,
with the same experts. Speed is that of the extracted plain model against the full mixture on the same rows, the median
of interleaved rounds.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from torch import Tensor

from roster.arena.moe.data import DOMAINS, corpus
from roster.arena.moe.pretrain import Terms, pretrain
from roster.moe.extract import as_plain, extract_task

TERMS = Terms(steps=1000, rows=12, length=64)
ROUNDS = 9


@torch.no_grad()
def check(seed: int) -> dict[str, float]:
    """Losses, largest difference of logits, sizes and speed."""
    with torch.enable_grad():
        by_task = pretrain("task-moe", terms=TERMS, seed=seed)
        by_token = pretrain("gshard-top2", terms=TERMS, seed=seed)
    ids_BS, domain_B = corpus().validation_rows(TERMS.validation_rows, TERMS.length)
    differences, sizes, speeds = [], [], []
    for task, name in enumerate(DOMAINS):
        rows_BS, task_B = ids_BS[domain_B == task], domain_B[domain_B == task]
        plain = as_plain(extract_task(by_task.model, name))
        full = by_task.model(rows_BS, task_ids=task_B, use_cache=False).logits
        differences.append(float((plain(rows_BS, use_cache=False).logits - full).abs().max()))
        sizes.append(sum(p.numel() for p in plain.parameters()) / by_task.parameters)
        speeds.append(_speed(by_task.model, plain, rows_BS, task_B))
    return {
        "loss by task": by_task.validation_loss["all"],
        "loss by token": by_token.validation_loss["all"],
        "largest difference of logits": max(differences),
        "size of a sub-network": max(sizes),
        "speed of a sub-network": statistics.median(speeds),
    }


def shown(figures: list[dict[str, float]]) -> bool:
    """At every seed logits differ by at most 1e-4 at less than 60 % of the size; mean loss by task below by token."""
    exact = all(
        each["largest difference of logits"] <= 1e-4 and each["size of a sub-network"] < 0.6 for each in figures
    )
    mean = {name: statistics.mean(each[name] for each in figures) for name in ("loss by task", "loss by token")}
    return exact and mean["loss by task"] < mean["loss by token"]


def _speed(full: Any, plain: Any, ids_BS: Tensor, task_B: Tensor) -> float:
    """How many times faster the plain model is."""
    seconds: dict[str, list[float]] = {"full": [], "plain": []}
    for _ in range(ROUNDS):
        for name, call in (
            ("full", lambda: full(ids_BS, task_ids=task_B, use_cache=False)),
            ("plain", lambda: plain(ids_BS, use_cache=False)),
        ):
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return statistics.median(seconds["full"]) / statistics.median(seconds["plain"])
