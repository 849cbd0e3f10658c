"""C-Poly: a task mixes skills that it shares with all others, and has skills of its own that nobody else may use.

Equation: w = z / sum(z) over the shared skills, v likewise over the task's own, both z = sigmoid(Z[task]), sampled by
    Gumbel-sigmoid while training; y = W x + sum_e (w_e + v_e) scale_e B_e A_e x.
Shapes: Z is [tasks, E, 2] at every linear layer: one column for skills as shared ones, one for skills as a task's own.
Trains: Z and the skills together; `train_experts=False` learns only Z, over a folder of finished adapters.
Siblings: `polytropon` has the shared skills alone, `oracle` the own ones.
Source: Wang et al., 2023, "Customizable Combination of Parameter-Efficient Modules for Multi-Task Learning",
    arXiv:2312.03248.
Differences: a task's own skills are the adapters with its name on their cards, one or several; with one, v is 1. By
    default every adapter is both its task's own and lent to all others; with `shared` the named ones are lent and all
    others are private, as in the source. The source trains shared and private skills from scratch
    (`roster.library.fresh` makes such a library). A task that is not in Z gets the shared skills evenly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from roster.adapters.mixing import Mixing, Site, Surroundings
from roster.errors import RosterError, nearest
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import TaskTable
from roster.score.task_id import OUT_OF_REACH
from roster.select import Parts, RelaxedBernoulli


def c_poly(shared: Sequence[str] | None = None, train_experts: bool = True) -> Mixing:
    """Customized Polytropon.

    Args:
        shared: names of the shared skills; all other adapters are private to the task on their card. By default every
            adapter is shared, and its task's own besides.
        train_experts: False trains only Z.
    """

    def router(site: Site) -> Router:
        for name in shared or ():
            if name not in site.experts:
                raise RosterError(f"c-poly: no expert is called {name!r}: {nearest(name, site.experts)}")
        E, N = site.num_experts, len(site.tasks)
        score = TaskTable(
            torch.empty(N, E, 2).uniform_(-1e-3, 1e-3),
            torch.zeros(E, 2),
            trains=True,
            needed_by="recipe 'c-poly'",
            closed_NE=torch.zeros(N, E, 2, dtype=torch.bool),
        )
        return Router(score, Parts(RelaxedBernoulli(), 2, "sum"))

    def prepare(router: Router, site: Site, surroundings: Surroundings) -> None:
        lent_E = torch.tensor([shared is None or name in shared for name in site.experts])
        closed_NEP, unknown_EP = (cast(Tensor, getattr(router.score, name)) for name in ("closed_NEP", "unknown_E"))
        closed_NEP[..., 0] = ~lent_E
        unknown_EP[:, 0] = torch.where(lent_E, 0.0, OUT_OF_REACH)
        unknown_EP[:, 1] = OUT_OF_REACH
        for closed_E, task in zip(closed_NEP[..., 1], site.tasks, strict=True):
            own = [_is_own(name, shared) and surroundings.library[name].card.task == task for name in site.experts]
            closed_E.copy_(~torch.tensor(own))

    return Mixing(
        router,
        at="linear",
        prepare=prepare,
        trains=frozenset({"router", "experts"} if train_experts else {"router"}),
        constant="per task",
        tasks=lambda library: list(
            dict.fromkeys(library[name].card.task for name in library.names if _is_own(name, shared))
        ),
    )


def _is_own(name: str, shared: Sequence[str] | None) -> bool:
    return shared is None or name not in shared


RECIPE = Recipe(
    slug="c-poly",
    title="C-Poly (customized Polytropon)",
    source="Wang et al., 2023, Customizable Combination of Parameter-Efficient Modules for Multi-Task Learning, "
    "arXiv:2312.03248",
    compose=c_poly,
    trains="router and experts",
    batch_invariant=True,
    claim="Shared skills with private ones beside them beat shared skills alone, and private ones alone.",
    evidence="tests/recipes/test_skills_in_heads.py",
    needs=("tasks", "training"),
)
