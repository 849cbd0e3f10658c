"""Cross-task skills: a small network reads the task's vector and draws one expert per layer for the whole row.

Equation: s = W relu(U e_task); in training i = argmax(s + Gumbel noise), straight through the softmax; at evaluation
i = argmax s; y = E_i(x).
Shapes: task vectors [N, V], U [H, V], W [E, H].
Trains: everything together.
Siblings: `task-moe` keeps k experts and weighs them.
Source: Ye, Zha and Ren, 2022, "Eliciting and Understanding Cross-Task Skills with Task-Level Mixture-of-Experts",
arXiv:2205.12701.
Differences: an expert is a feed-forward block, where the source's is a whole transformer layer; task vectors are
learned from scratch (the source also tries ones made from text and from Fisher information); trained in one stage.
The noise fades in a straight line over the training, which is ours. In training every expert computes, as the
straight-through gradient needs.
"""

from __future__ import annotations

import torch
from torch import nn

from roster.moe.layer import MoE
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import TaskEmbedding
from roster.select import GumbelTop1


def cross_task_moe(num_experts: int = 4, width: int = 16, hidden: int = 32, temperature: float = 1.0) -> Layout:
    """One expert per task and layer, drawn.

    Args:
        num_experts: E.
        width: V, of a task's vector.
        hidden: H, units of the network that reads it; 0 for a linear router.
        temperature: of the softmax that stands in for the draw.
    """

    def block(place: Place) -> nn.Module:
        score = TaskEmbedding(torch.randn(len(place.tasks), width), num_experts, hidden=hidden)
        return MoE(Router(score, GumbelTop1(temperature)), place.make_experts(num_experts, place.hidden))

    return Layout(block, tasks="given")


RECIPE = Recipe(
    slug="cross-task-moe",
    title="Task-level mixture for cross-task skills",
    source="Ye, Zha and Ren, 2022, Eliciting and Understanding Cross-Task Skills, arXiv:2205.12701",
    compose=cross_task_moe,
    trains="everything",
    batch_invariant=True,
    claim="Learned task routes group tasks by the skill behind them, and a new task is learned from few examples "
    "better than by a dense model.",
    evidence="docs/results/claims.md",
    needs=("tasks",),
    kind="moe",
)
