"""HyperFormer: tasks have adapters of their own, but one small network writes them all, so that tasks share what they
know.

Equation: A_tn = W_A h, B_tn = W_B h, h = norm(U relu(V [e_t; l_n])), e_t a vector of the task, l_n of the layer;
    y = W x + scale B_tn A_tn x for rows of task t.
Shapes: e is [E, V], l is [N, V], W_A [r I, V] and W_B [O r, V] for each size of layer.
Trains: the network with its vectors, which is the mixture's head.
Siblings: `named` and `oracle` use adapters that were trained apart.
Source: Karimi Mahabadi, Ruder, Dehghani, Henderson, 2021, "Parameter-efficient Multi-task Fine-tuning for Transformers
    via Shared Hypernetworks", arXiv:2106.04489; the authors' repository is rabeehk/hyperformer.
Differences: what is written are LoRA factors of linear layers, where the source's are bottleneck adapters behind whole
    sub-layers, and their layer norms. Position and layer share one vector per adapted layer. The folder's adapters say
    which tasks there are, which layers are adapted, at which rank and scale; what they hold is not used.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from roster.adapters.mixing import Mixing, Site, Surroundings
from roster.experts import GeneratedExperts, Hypernetwork
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import TaskTable
from roster.select import All


def hyperformer(width: int = 64, hidden: int = 128) -> Mixing:
    """Adapters by a shared hypernetwork.

    Args:
        width: V, of the vectors of tasks and layers.
        hidden: units of the network's hidden layer.
    """
    made: list[Hypernetwork] = []

    def head(whole: Site) -> Hypernetwork:
        made[:] = [Hypernetwork(whole.num_experts, whole.num_sites, width, hidden)]
        return made[0]

    def experts(site: Site) -> nn.Module:
        known = [each for each in site.updates if each is not None]
        rank = max(each.A_RD.shape[0] for each in known)
        return GeneratedExperts(made[0], site.index, site.width, site.out_features, rank, known[0].scale)

    def router(site: Site) -> Router:
        table_NE = torch.zeros(len(site.tasks), site.num_experts)
        return Router(TaskTable(table_NE, torch.zeros(site.num_experts), needed_by="recipe 'hyperformer'"), All("none"))

    def prepare(part: nn.Module, site: Site, surroundings: Surroundings) -> None:
        if not isinstance(part, Router):
            return
        cards = [surroundings.library[name].card for name in site.experts]
        for row_E, task in zip(cast(Tensor, part.score.table_NE), site.tasks, strict=True):
            able_E = torch.tensor([card.task == task for card in cards], dtype=torch.float32)
            row_E.copy_(able_E / able_E.sum())

    return Mixing(
        router,
        at="model",
        head=head,
        experts=experts,
        prepare=prepare,
        trains=frozenset({"router"}),
        constant="per task",
        tasks=lambda library: list(dict.fromkeys(library[name].card.task for name in library.names)),
    )


RECIPE = Recipe(
    slug="hyperformer",
    title="HyperFormer",
    source="Karimi Mahabadi et al., 2021, Parameter-efficient Multi-task Fine-tuning for Transformers via Shared "
    "Hypernetworks, arXiv:2106.04489",
    compose=hyperformer,
    trains="router",
    batch_invariant=True,
    claim="Generated adapters match adapters of each task's own with fewer parameters, and help tasks with few data.",
    evidence="tests/recipes/test_transfer.py",
    needs=("tasks", "training"),
)
