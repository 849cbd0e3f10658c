"""LORAUTER: prompts are routed to tasks, known by a few prompts each, and every task has the adapter that does it best.

Equation: d_t = mean of u(f(x)) over the examples x of task t, u the scaling to length 1; of the top k tasks by
    s_t = cos(f(prompt), d_t), the adapters serve with weights softmax(s / temperature).
Shapes: d is [tasks, D]; one route per row.
Trains: nothing; tasks are those on the experts' cards, and their examples are those of all their experts.
Siblings: LoraRetriever retrieves adapters and weighs them alike. With `top_k=1` the choice is hard, at unit scale.
Source: Dhasade, Kermarrec, Pavlovic, Petrescu, Pires, Randl, de Vos, 2026, "Effective LoRA Adapter Routing using Task
    Representations", arXiv:2601.21795.
Differences: the source finds each task's adapter by its accuracy on a validation set with answers; cards have none, so
    that here it is the one whose answers tell most about the task's prompts (`roster.auto.duels`). The source embeds
    with a sentence encoder; here the base itself does, as in LoraRetriever. The temperature is this package's own.
"""

from __future__ import annotations

from typing import Any

from roster.adapters.mixing import Mixing, Site, Surroundings
from roster.auto.retrieving import Retriever, learn_from
from roster.errors import RosterError
from roster.recipes.needs import check_examples
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Decided
from roster.select import Given


def lorauter(top_k: int = 3, temperature: float = 0.1, layer: int | None = None) -> Mixing:
    """LORAUTER.

    Args:
        top_k: tasks per prompt; all where there are fewer.
        temperature: of the softmax over cosines.
        layer: behind which block prompts are read, counted from 1; None is a third of the depth.
    """
    if top_k < 1:
        raise RosterError(f"lorauter: top_k must be at least 1, not {top_k}")
    if not temperature > 0:
        raise RosterError(f"lorauter: the temperature must be above 0, not {temperature}")

    def prepare(part: Any, site: Site, surroundings: Surroundings) -> None:
        if isinstance(part, Retriever):
            check_examples(surroundings.library, "lorauter")
            learn_from(part, surroundings, _tasks(surroundings), layer, "lorauter")

    return Mixing(
        lambda site: Router(Decided(site.num_experts), Given(min(top_k, site.num_experts))),
        at="model",
        head=lambda whole: Retriever(whole.num_experts, top_k, temperature),
        head_reads="prompt",
        prepare=prepare,
        one_per_prompt=top_k == 1,
    )


def _tasks(surroundings: Surroundings) -> dict[int, list[int]]:
    """The expert that serves each task, and all that are for it."""
    from roster.auto.duels import champion  # recipes are listed without PEFT and transformers

    library, rendering = surroundings.library, surroundings.rendering
    members: dict[str, list[int]] = {}
    for expert, name in enumerate(library.names):
        members.setdefault(library[name].card.task, []).append(expert)
    if rendering is None:
        return {experts[0]: experts for experts in members.values()}
    return {champion(surroundings.model, library, rendering, experts): experts for experts in members.values()}


RECIPE = Recipe(
    slug="lorauter",
    title="LORAUTER",
    source="Dhasade et al., 2026, Effective LoRA Adapter Routing using Task Representations, arXiv:2601.21795",
    compose=lorauter,
    trains="nothing",
    batch_invariant=True,
    claim="Routing to tasks by their embeddings matches an oracle where an adapter for the task exists.",
    evidence="docs/results/auto.md",
    needs=("examples",),
)
