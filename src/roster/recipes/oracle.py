"""Oracle by task id: every row is answered by the experts of its task. The bound that a router can hope to reach
when one expert per sequence is enough; a per-token router can pass it on prompts that need two.

Equation: y = W x + mean over the experts e of the row's task of scale_e B_e A_e x; an unknown task gets the base.
Trains: nothing.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from roster.adapters.mixing import Mixing, Site, Surroundings
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import TaskTable
from roster.select import All


def oracle() -> Mixing:
    """Tasks are those on the experts' cards; several experts of one task share it evenly."""

    def router(site: Site) -> Router:
        table_NE = torch.zeros(len(site.tasks), site.num_experts)
        return Router(TaskTable(table_NE, torch.zeros(site.num_experts), needed_by="recipe 'oracle'"), All("none"))

    def prepare(router: Router, site: Site, surroundings: Surroundings) -> None:
        cards = [surroundings.library[name].card for name in site.experts]
        for row_E, task in zip(cast(Tensor, router.score.table_NE), site.tasks, strict=True):
            able_E = torch.tensor([card.task == task for card in cards], dtype=torch.float32)
            row_E.copy_(able_E / able_E.sum())

    return Mixing(
        router,
        at="model",
        prepare=prepare,
        constant="per task",
        tasks=lambda library: list(dict.fromkeys(library[name].card.task for name in library.names)),
    )


RECIPE = Recipe(
    slug="oracle",
    title="Oracle by task id",
    source="roster",
    compose=oracle,
    trains="nothing",
    batch_invariant=True,
    claim=None,
    evidence="docs/results/mix.md",
    needs=("tasks",),
)
