"""Polytropon: a task is a set of skills, and which task needs which skill is learned with them.

Equation: z = sigmoid(Z[task]), sampled by Gumbel-sigmoid while training; w = z / sum(z);
    y = W x + sum_e w_e scale_e B_e A_e x.
Shapes: Z is [tasks, E] at every linear layer.
Trains: Z and the skills together; `train_experts=False` learns only Z.
Source: Ponti, Sordoni, Bengio, Reddy, 2022, "Combining Modular Skills in Multitask Learning", arXiv:2202.13914.
Differences: one Z per linear layer, as PEFT's Poly has it, without the source's Indian-buffet prior. The faster
    learning rate of Z is up to the trainer. A task that is not in Z gets all skills evenly. The source's equation
    averages the skills' parameters; its code, PEFT's Poly and Caccia et al., 2022, arXiv:2211.03831 average the
    factors A and B of a LoRA separately, `(sum w_e B_e)(sum w_e A_e)`. That is `average="factors"` (equal to PEFT
    given the same logits; tests). The default averages the updates B_e A_e: it recovers planted skills at every
    seed, where averaging factors does at some (docs/results/checks.md), and it also fits adapters trained apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from roster.adapters.mixing import Mixing, Site
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import TaskTable
from roster.select import RelaxedBernoulli


def polytropon(
    tasks: Sequence[str] | None = None,
    average: Literal["updates", "factors"] = "updates",
    train_experts: bool = True,
) -> Mixing:
    """Polytropon.

    Args:
        tasks: names of the training tasks, the rows of Z; by default the tasks on the experts' cards.
        average: what is averaged; see `LowRankExperts`.
        train_experts: False trains only Z.
    """

    def router(site: Site) -> Router:
        table_NE = torch.empty(len(site.tasks), site.num_experts).uniform_(-1e-3, 1e-3)
        unknown_E = torch.zeros(site.num_experts)
        score = TaskTable(table_NE, unknown_E, trains=True, needed_by="recipe 'polytropon'")
        return Router(score, RelaxedBernoulli())

    return Mixing(
        router,
        at="linear",
        average=average,
        trains=frozenset({"router", "experts"} if train_experts else {"router"}),
        constant="per task",
        tasks=lambda library: (
            list(tasks) if tasks is not None else list(dict.fromkeys(library[name].card.task for name in library.names))
        ),
    )


RECIPE = Recipe(
    slug="polytropon",
    title="Polytropon",
    source="Ponti et al., 2022, Combining Modular Skills in Multitask Learning, arXiv:2202.13914",
    compose=polytropon,
    trains="router and experts",
    batch_invariant=True,
    claim="Skills and their allocation are recovered jointly, and beat one shared adapter on new combinations.",
    evidence="docs/results/claims.md",
    needs=("tasks", "training"),
)
