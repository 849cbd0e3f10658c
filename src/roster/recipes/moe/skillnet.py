"""SkillNet-NLG: every block has an expert per skill; people say which skills a task takes, and these alone run.

Equation: y = 1 / |S_task| * sum over the task's skills s of E_s(x).
Shapes: a table of tasks and skills [N, E], which nobody learns.
Trains: everything but the table.
Siblings: `task-moe` learns which experts a task takes.
Source: Liao et al., 2022, "SkillNet-NLG: General-Purpose Natural Language Generation with a Sparsely Activated
Approach", arXiv:2204.12184; the authors' repository is david-liao/skillnet_nlg.
Differences: an expert is a feed-forward block, as wide as the model's own, without the layer norm that the source
copies with it. The source routes every second layer (`layers=`), starts from copies of the dense block
(`start="dense"`, which leaves the model's outputs as they were) and shows large tasks less often. Rows of no known task
get the skills that all tasks share. `roster.moe.extract` cuts one task's skills out as a plain dense model, exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from roster.errors import RosterError, nearest
from roster.moe.layer import MoE
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import TaskTable
from roster.select import All

GENERAL = "general"


def skillnet_nlg(skills: Mapping[str, Sequence[str]] | None = None) -> Layout:
    """Named skills.

    Args:
        skills: the skills of each task, by name. By default every task has one of its own and one that all share,
            called "general".
    """

    def block(place: Place) -> nn.Module:
        named = {task: [GENERAL, task] for task in place.tasks} if skills is None else dict(skills)
        for task in place.tasks:
            if not named.get(task):
                raise RosterError(f"skillnet-nlg: skills names none for the task {task!r}: {nearest(task, named)}")
        order = list(dict.fromkeys(skill for task in place.tasks for skill in named[task]))
        table_NE = torch.tensor([[float(skill in named[task]) for skill in order] for task in place.tasks])
        shared_E = (table_NE > 0).all(0).float()
        score = TaskTable(
            table_NE / table_NE.sum(1, keepdim=True),
            shared_E / shared_E.sum() if shared_E.any() else None,
            needed_by="recipe 'skillnet-nlg'",
        )
        return MoE(Router(score, All("none")), place.make_experts(len(order), place.hidden))

    return Layout(block, tasks="given")


RECIPE = Recipe(
    slug="skillnet-nlg",
    title="SkillNet-NLG",
    source="Liao et al., 2022, SkillNet-NLG: General-Purpose Natural Language Generation with a Sparsely Activated "
    "Approach, arXiv:2204.12184",
    compose=skillnet_nlg,
    trains="everything",
    batch_invariant=True,
    claim="Named skills beat one dense model for all tasks, and a new task starts ahead by the skills that it shares.",
    evidence="tests/recipes/test_named_skills.py",
    needs=("tasks",),
    kind="moe",
)
