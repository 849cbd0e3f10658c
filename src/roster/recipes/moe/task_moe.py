"""Task-MoE: the task of a row, not its tokens, decides who is on duty; a task's experts can be served alone.

Equation: p = softmax(W e_task); y = sum over the best k of p_i / (p_1 + .. + p_k) E_i(x); plus the load-balancing loss.
Shapes: task vectors [N, V], router [E, V].
Trains: everything together, the task vectors included.
Siblings: GShard scores tokens; `cross-task-moe` draws one expert through a small network; `direct-nmt-task-moe` lets
several tasks share a vector. `roster.moe.extract.extract_task` takes one task's sub-network out.
Source: Kudugunta et al., 2021, "Beyond Distillation", arXiv:2110.03742.
Differences: the vector of a task is learned from scratch and each block has its own; the source's language pairs are
any tasks; no capacity, so nothing is dropped. The source routes only some layers; name them with layers=.
"""

from __future__ import annotations

import torch

from roster.balance import LoadBalancing
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import TaskEmbedding
from roster.select import TopK


def task_moe(num_experts: int = 8, k: int = 2, width: int = 16, balance: float = 0.01) -> Layout:
    """Top-k routing by task.

    Args:
        num_experts: E.
        k: experts per task.
        width: V, of a task's vector.
        balance: weight of the load-balancing loss.
    """

    def router(place: Place) -> Router:
        score = TaskEmbedding(torch.randn(len(place.tasks), width), num_experts)
        return Router(score, TopK(k), [LoadBalancing(balance)])

    return Layout.of(router, num_experts, k, tasks="given")


RECIPE = Recipe(
    slug="task-moe",
    title="Task-MoE",
    source="Kudugunta et al., 2021, Beyond Distillation: Task-level Mixture-of-Experts, arXiv:2110.03742",
    compose=task_moe,
    trains="everything",
    batch_invariant=True,
    claim="A task's sub-network answers exactly as the full mixture with far fewer parameters, and routing by task "
    "reaches a lower loss than routing by token.",
    evidence="docs/results/claims.md",
    needs=("tasks",),
    kind="moe",
)
