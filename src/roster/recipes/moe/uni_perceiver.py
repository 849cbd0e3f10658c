"""Conditional MoE of Uni-Perceiver: the same mixture under another condition; by default the attributes of the task.

Equation: p = softmax(W c), c = the task's attributes (0 or 1 each), a learned task vector, or the token itself;
y = sum over the best k of p_i / (p_1 + .. + p_k) E_i(x); plus the load-balancing loss.
Shapes: attributes [N, A], router [E, A].
Trains: everything together; attributes are given.
Siblings: "task" is `task-moe`, "token" is GShard. A condition that no token is part of lets the chosen experts be
merged into one block per task (`roster.moe.extract`).
Source: Zhu et al., 2022, "Uni-Perceiver-MoE", arXiv:2206.04674.
Differences: one attribute vector per task, where the source has 8 bits per token (the modality and the role of what
it belongs to); without `attributes` a task's number in binary stands in for them. Experts are feed-forward blocks, not
the linear layers of attention and feed-forward blocks; merged, they are concatenated, which is exact, not averaged.
The source's context and modality conditions are left out.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from roster.balance import LoadBalancing
from roster.errors import RosterError
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Linear, TaskEmbedding
from roster.select import TopK

_BITS, _VECTOR = 8, 16


def uni_perceiver_moe(
    num_experts: int = 8,
    k: int = 2,
    condition: Literal["attribute", "task", "token"] = "attribute",
    attributes: list[list[int]] | None = None,
    balance: float = 0.01,
) -> Layout:
    """Top-k routing by a condition.

    Args:
        num_experts: E.
        k: experts per token.
        condition: what the router reads.
        attributes: zeros and ones, one list per task in the order of the tasks; only with condition "attribute".
        balance: weight of the load-balancing loss.
    """

    def score(place: Place) -> nn.Module:
        if condition == "token":
            return Linear(place.width, num_experts)
        if condition == "task":
            return TaskEmbedding(torch.randn(len(place.tasks), _VECTOR), num_experts)
        return TaskEmbedding(_attributes_NA(place, attributes), num_experts, trains=False)

    def router(place: Place) -> Router:
        return Router(score(place), TopK(k), [LoadBalancing(balance)])

    return Layout.of(router, num_experts, k, tasks=None if condition == "token" else "given")


def _attributes_NA(place: Place, attributes: list[list[int]] | None) -> Tensor:
    """As -1 and 1, so that an attribute which is absent says something too."""
    if attributes is None:
        if len(place.tasks) > 2**_BITS:
            raise RosterError(f"recipe {place.recipe!r}: more than {2**_BITS} tasks need attributes= of their own")
        attributes = [[index >> bit & 1 for bit in range(_BITS)] for index in range(len(place.tasks))]
    if len(attributes) != len(place.tasks) or len({len(each) for each in attributes}) != 1:
        raise RosterError(
            f"recipe {place.recipe!r}: attributes= must hold one list of equal length for each of the tasks "
            f"{list(place.tasks)}, not {attributes}"
        )
    return torch.tensor(attributes, dtype=torch.float32) * 2 - 1


RECIPE = Recipe(
    slug="uni-perceiver-moe",
    title="Uni-Perceiver-MoE",
    source="Zhu et al., 2022, Uni-Perceiver-MoE: Learning Sparse Generalist Models, arXiv:2206.04674",
    compose=uni_perceiver_moe,
    trains="everything",
    batch_invariant=True,
    claim="Routing by attributes takes away the interference between the gradients of conflicting tasks, and the "
    "experts of a task merge into one block that answers the same.",
    evidence="docs/results/claims.md",
    needs=("tasks",),
    kind="moe",
)
