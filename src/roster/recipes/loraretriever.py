"""LoraRetriever: for each prompt the adapters whose examples resemble it most are retrieved and composed.

Equation: d_e = mean of u(f(x)) over the examples x of expert e, u the scaling to length 1; the top k experts by
    cos(f(prompt), d_e) serve, each with weight 1/k ("mixture": their outputs are averaged), or one adapter with the
    averages of their A and of their B ("fusion").
Shapes: d is [E, D]; one route per row.
Trains: nothing; the examples are those on the experts' cards.
Siblings: LORAUTER retrieves tasks and weighs them by similarity; `auto` whitens, serves with one at full scale, and may
    leave a prompt to the base. With `top_k=1` the choice is hard, at unit scale.
Source: Zhao, Gan, Wang, Zhou, Yang, Kuang, Wu, 2024, "LoraRetriever: Input-Aware LoRA Retrieval and Composition for
    Mixed Tasks in the Wild", Findings of ACL, arXiv:2402.09997.
Differences: the source embeds with a sentence encoder that it tunes on some of the tasks; here the base itself embeds,
    by its hidden states behind a third of its blocks, averaged over the prompt's last turn. Such means share a large
    common part, so the mean of the experts' vectors is taken off first. Averages of factors need equal ranks.
"""

from __future__ import annotations

from typing import Any, Literal

from roster.adapters.mixing import Mixing, Site, Surroundings
from roster.auto.retrieving import Retriever, learn_from
from roster.errors import RosterError
from roster.recipes.needs import check_examples
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Decided
from roster.select import Given


def loraretriever(
    top_k: int = 3, composition: Literal["mixture", "fusion"] = "mixture", layer: int | None = None
) -> Mixing:
    """LoraRetriever.

    Args:
        top_k: adapters per prompt; all where there are fewer.
        composition: "mixture" averages outputs, which for LoRA is the average of the updates; "fusion" averages the
            factors, retrieve-then-merge.
        layer: behind which block prompts are read, counted from 1; None is a third of the depth.
    """
    if top_k < 1:
        raise RosterError(f"loraretriever: top_k must be at least 1, not {top_k}")
    if composition not in ("mixture", "fusion"):
        raise RosterError(f"loraretriever: composition must be 'mixture' or 'fusion', not {composition!r}")

    def prepare(part: Any, site: Site, surroundings: Surroundings) -> None:
        if isinstance(part, Retriever):
            check_examples(surroundings.library, "loraretriever")
            tasks = {expert: [expert] for expert in range(site.num_experts)}
            learn_from(part, surroundings, tasks, layer, "loraretriever")

    return Mixing(
        lambda site: Router(Decided(site.num_experts), Given(min(top_k, site.num_experts))),
        at="model",
        head=lambda whole: Retriever(whole.num_experts, top_k, None),
        head_reads="prompt",
        prepare=prepare,
        one_per_prompt=top_k == 1,
        average="updates" if composition == "mixture" else "factors",
    )


RECIPE = Recipe(
    slug="loraretriever",
    title="LoraRetriever",
    source="Zhao et al., 2024, LoraRetriever: Input-Aware LoRA Retrieval and Composition for Mixed Tasks in the Wild, "
    "Findings of ACL 2024, arXiv:2402.09997",
    compose=loraretriever,
    trains="nothing",
    batch_invariant=True,
    claim="Retrieving adapters per prompt and averaging their outputs beats one merged adapter on mixed tasks.",
    evidence="docs/results/auto.md",
    needs=("examples",),
)
