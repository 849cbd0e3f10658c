"""Task-aware gates: every task has its own gate over one pool of experts, so that related tasks can share some.

Equation: p = softmax(x W_task^T); y = sum over the best k of p_i / (p_1 + .. + p_k) E_i(x); plus the load-balancing
loss.
Shapes: gates [N, E, D].
Trains: everything together.
Siblings: `task-moe` leaves the token out, GShard the task.
Source: Gupta et al., 2022, "Sparsely Activated Mixture-of-Experts are Robust Multi-Task Learners", arXiv:2204.07689.
Differences: the gate of a task is a matrix of its own (the source describes gates conditioned on the task; that each
task has a whole gate is from memory); no capacity.
"""

from __future__ import annotations

from roster.balance import LoadBalancing
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import TaskGate
from roster.select import TopK


def task_aware_moe(num_experts: int = 8, k: int = 2, balance: float = 0.01) -> Layout:
    """Top-k routing with a gate per task.

    Args:
        num_experts: E.
        k: experts per token.
        balance: weight of the load-balancing loss.
    """

    def router(place: Place) -> Router:
        return Router(TaskGate(len(place.tasks), num_experts, place.width), TopK(k), [LoadBalancing(balance)])

    return Layout.of(router, num_experts, k, tasks="given")


RECIPE = Recipe(
    slug="task-aware-moe",
    title="Task-aware gates",
    source="Gupta et al., 2022, Sparsely Activated Mixture-of-Experts are Robust Multi-Task Learners, arXiv:2204.07689",
    compose=task_aware_moe,
    trains="everything",
    batch_invariant=True,
    claim="Unrelated tasks hurt a dense model but not task-gated experts, and a task with little data gains from a "
    "related one.",
    evidence="docs/results/claims.md",
    needs=("tasks",),
    kind="moe",
)
