"""Named expert: each request says which expert it wants, and a batch may mix them.

Equation: y = W x + scale_e B_e A_e x with e named by the row; a row that names none is answered by the base.
Trains: nothing. PEFT's `adapter_names` does the same, and the tests hold the two equal.
"""

from __future__ import annotations

import torch

from roster.adapters.mixing import Mixing, Site
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import TaskTable
from roster.select import Given


def named() -> Mixing:
    """The task ids of a call are the experts' indices; -1 is the base."""

    def router(site: Site) -> Router:
        E = site.num_experts
        return Router(TaskTable(torch.eye(E), torch.zeros(E), needed_by="recipe 'named'"), Given(1))

    return Mixing(router, at="model", constant="per task", tasks=lambda library: library.names, one_per_prompt=True)


RECIPE = Recipe(
    slug="named",
    title="Named expert per request",
    source="roster",
    compose=named,
    trains="nothing",
    batch_invariant=True,
    claim=None,
    evidence="tests/adapters/test_against_peft.py",
    needs=("tasks",),
)
