"""Polytropon: a task is a set of skills, and which task needs which skill is learned with them.

Equation: z = sigmoid(Z[task]), sampled by Gumbel-sigmoid while training; w = z / sum(z);
    A = sum_e w_e A_e, B = sum_e w_e B_e, y = W x + scale B A x.
Shapes: Z is [tasks, E] at every linear layer.
Trains: Z and the skills together; `train_experts=False` learns only Z.
Source: Ponti, Sordoni, Bengio, Reddy, 2022, "Combining Modular Skills in Multitask Learning", arXiv:2202.13914; that
    A and B are averaged separately is in the authors' code and spelled out by Caccia et al., 2022, arXiv:2211.03831.
Differences: one Z per linear layer, as PEFT's Poly has it (equal to it given the same logits; tests), without the
    Indian-buffet prior, which the source found not to matter for the result. The faster learning rate of Z is set by
    the trainer. A task that is not in Z gets all skills evenly. `average="updates"` mixes the products B_e A_e,
    which is what adapters that were trained apart need.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from roster.mixture.mixing import Mixing, Site
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import TaskTable
from roster.select import RelaxedBernoulli


def polytropon(
    tasks: Sequence[str] | None = None,
    average: Literal["factors", "updates"] = "factors",
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
    claim_shown=None,
    evidence="docs/results/checks.md",
    needs=("tasks", "training"),
)
