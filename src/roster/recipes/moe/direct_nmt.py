"""Task-level mixture for direct translation: language pairs share a route by their source, their target, or not at all.

Equation: as `task-moe`, with e of the group that the pair is in.
Shapes: group vectors [G, V], router [E, V].
Trains: everything together.
Siblings: `task-moe` is the grouping "pair".
Source: Tourni and Naskar, 2023, "Direct Neural Machine Translation with Task-level Mixture of Experts models",
arXiv:2310.12236.
Differences: a task is named "source-target"; only these three groupings, whereas the source also compares
configurations that differ between training and evaluation.
"""

from __future__ import annotations

from typing import Literal

import torch

from roster.balance import LoadBalancing
from roster.errors import RosterError
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import TaskEmbedding
from roster.select import TopK

_PART = {"source": 0, "target": 1}


def direct_nmt_task_moe(
    num_experts: int = 8,
    k: int = 2,
    by: Literal["pair", "source", "target"] = "pair",
    width: int = 16,
    balance: float = 0.01,
) -> Layout:
    """Top-k routing by group of language pairs.

    Args:
        num_experts: E.
        k: experts per group.
        by: which pairs share a route: those with the same "source" or "target", or none ("pair").
        width: V, of a group's vector.
        balance: weight of the load-balancing loss.
    """

    def router(place: Place) -> Router:
        names = [_group(place, task, by) for task in place.tasks]
        groups = {name: index for index, name in enumerate(dict.fromkeys(names))}
        vectors_GV = torch.randn(len(groups), width)
        score = TaskEmbedding(vectors_GV, num_experts, groups=[groups[name] for name in names])
        return Router(score, TopK(k), [LoadBalancing(balance)])

    return Layout.of(router, num_experts, k, tasks="given")


def _group(place: Place, task: str, by: str) -> str:
    if by == "pair":
        return task
    parts = task.split("-")
    if len(parts) != 2:
        raise RosterError(f"recipe {place.recipe!r} with by={by!r}: task {task!r} is not named 'source-target'")
    return parts[_PART[by]]


RECIPE = Recipe(
    slug="direct-nmt-task-moe",
    title="Direct translation with task-level experts",
    source="Tourni and Naskar, 2023, Direct NMT with Task-level Mixture of Experts models, arXiv:2310.12236",
    compose=direct_nmt_task_moe,
    trains="everything",
    batch_invariant=True,
    claim="A mixture routed by task translates directly between two languages better than by way of a third.",
    evidence="docs/results/claims.md",
    needs=("tasks",),
    kind="moe",
)
