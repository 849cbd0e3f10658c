"""MHR: Polytropon in heads: every head of a layer's input and output has an allocation of skills to tasks of its own.

Equation: w_h = z_h / sum_e z_eh with z_h = sigmoid(Z[task, :, h]), sampled by Gumbel-sigmoid while training;
    A = [sum_e w_e1 A_e1 | ... | sum_e w_eH A_eH], B stacked likewise; y = W x + scale B A x.
Shapes: Z is [tasks, E, H] at every linear layer; A_eh is [r, I / H], B_eh is [O / H, r].
Trains: Z and the skills together. MHR-z (`tune="z"`) trains Z alone, H * E numbers per layer and task: for a new task.
    MHR-mu (`tune="mean"`) trains the mean of all skills as one adapter, without any routing.
Siblings: with one head this is `polytropon` with `average="factors"`.
Source: Caccia, Ponti, Su, Pereira, Le Roux, Sordoni, 2022, "Multi-Head Adapter Routing for Cross-Task Generalization",
    arXiv:2211.03831.
Differences: none known in the function: equal to PEFT's Poly with `n_splits` given the same tensors (tests), whose
    folders `roster.adapters.poly` reads and writes. MHR-mu moves E copies of the mean, each by the same gradient: under
    Adam the mean moves as if it stood alone, and `merge` writes it as one plain adapter. A task that is not in Z gets
    all skills evenly. For a known task `merge` is exact at any number of heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from roster.adapters.mixing import Mixing, Site
from roster.experts import HeadExperts
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Constant, TaskTable
from roster.select import All, Parts, RelaxedBernoulli

Tune = Literal["all", "z", "mean"]
_TRAINED = {"all": {"router", "experts"}, "z": {"router"}, "mean": {"experts"}}


def mhr(tasks: Sequence[str] | None = None, heads: int = 8, tune: Tune = "all") -> Mixing:
    """Multi-head adapter routing.

    Args:
        tasks: names of the training tasks, the rows of Z; by default the tasks on the experts' cards.
        heads: H, which divides the width of every routed layer.
        tune: what trains: "all", the allocation "z", or the "mean" of the skills.
    """

    def router(site: Site) -> Router:
        E = site.num_experts
        if tune == "mean":
            return Router(Constant(torch.full((E,), 1 / E)), All("none"))
        table_NEP = torch.empty(len(site.tasks), E, heads).uniform_(-1e-3, 1e-3)
        score = TaskTable(table_NEP, torch.zeros(E, heads), trains=True, needed_by="recipe 'mhr'")
        return Router(score, Parts(RelaxedBernoulli(), heads))

    def experts(site: Site) -> nn.Module:
        return HeadExperts(site.factors, heads, trains=tune != "z")

    known = list(dict.fromkeys(tasks or ()))
    return Mixing(
        router,
        at="linear",
        experts=experts,
        trains=frozenset(_TRAINED[tune]),
        constant="always" if tune == "mean" else "per task",
        tasks=None
        if tune == "mean"
        else lambda library: known or list(dict.fromkeys(library[name].card.task for name in library.names)),
    )


RECIPE = Recipe(
    slug="mhr",
    title="MHR (multi-head adapter routing)",
    source="Caccia et al., 2022, Multi-Head Adapter Routing for Cross-Task Generalization, arXiv:2211.03831",
    compose=mhr,
    trains="router and experts",
    batch_invariant=True,
    claim="More heads adapt better to new tasks from few examples than one, at the same skills.",
    evidence="tests/recipes/test_skills_in_heads.py",
    needs=("tasks", "training"),
)
