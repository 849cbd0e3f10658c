"""AdaTT: every task has experts of its own, fuses those of all tasks by its own gate, and adds its own once more.

Equation: y = sum_e softmax(W_t x)_e E_e(x) + sum over the experts e of task t of v_te E_e(x).
Shapes: gates [N, E, D]; native weights [N, E], zero for other tasks' experts.
Trains: everything together.
Siblings: MMoE is the same without the second sum and without owners.
Source: Li et al., 2023, "AdaTT: Adaptive Task-to-Task Fusion Network for Multitask Learning in Recommendations",
arXiv:2304.04959.
Differences: in the source a network for tables computes every task's stream for every example, and the experts of a
task read their own task's stream from the second level on. Here a row belongs to one task and has its stream only; a
level is one block of the model, and all experts read that stream. With one level the two are the same. All experts
serve every token, so that E of them have E times fewer hidden units each, and the block has the parameters of a dense
one. The source's gates have biases and a fixed weight of the native part; here gates have none and that weight is
learned.
"""

from __future__ import annotations

from torch import nn

from roster.errors import RosterError
from roster.moe.layer import MoE
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import TaskGate
from roster.select import All, Native


def adatt(per_task: int = 1, shared: int = 1) -> Layout:
    """Task-to-task fusion.

    Args:
        per_task: experts that each task owns.
        shared: experts that nobody owns.
    """
    if per_task < 1 or shared < 0:
        raise RosterError(f"recipe 'adatt': per_task={per_task} must be at least 1 and shared={shared} at least 0")

    def block(place: Place) -> nn.Module:
        tasks = len(place.tasks)
        owners = [task for task in range(tasks) for _ in range(per_task)] + [-1] * shared
        E = len(owners)
        router = Router(TaskGate(tasks, E, place.width), Native(All(), owners, tasks))
        return MoE(router, place.make_experts(E, place.share(E)))

    return Layout(block, tasks="given")


RECIPE = Recipe(
    slug="adatt",
    title="AdaTT",
    source="Li et al., 2023, AdaTT: Adaptive Task-to-Task Fusion Network, arXiv:2304.04959",
    compose=adatt,
    trains="everything",
    batch_invariant=True,
    claim="It beats shared-bottom and MMoE, fuses related tasks more, and needs the native part.",
    evidence="docs/results/claims.md",
    needs=("tasks",),
    kind="moe",
)
