"""RouterRetriever: a retriever's queries go to the adapter of their domain, found by the most similar pilot.

Equation: e = the expert of argmax_n (q . p_n); y = W x + scale_e B_e A_e x. q is the base's embedding of the query, p_n
    the mean embedding of those queries of one data set that one expert serves best.
Shapes: pilots [N, D] and their experts [N].
Trains: nothing; adapters are trained apart, and one more expert is one more pilot.
Siblings: `adapter-soup` averages the nearest few; `auto` calibrates, and can leave a prompt to the base.
Source: Lee et al., 2024, "RouterRetriever: Routing over a Mixture of Expert Embedding Models", arXiv:2409.02685; the
    authors' repository is amy-hyunji/RouterRetriever.
Differences: until experts have been measured (`roster.adapters.pilots.learn_pilots`), a query stands for the expert on
    whose card it is. The source routes by the best pilot, as its code does, though the mean over an expert's pilots is
    what is told of it: `over="mean"` is that. Documents are embedded by the base alone, or with `gates=` of zeros.
    Works with sentence-transformers: attach to the transformer inside (`encoder[0].auto_model`).
"""

from __future__ import annotations

from typing import Any, Literal

from roster.adapters.mixing import Mixing, Site, Surroundings
from roster.adapters.pilots import Pilots
from roster.errors import RosterError
from roster.recipes.needs import check_examples
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Decided
from roster.select import Given


def routerretriever(
    pilots: int = 1,
    over: Literal["max", "mean"] = "max",
    similarity: Literal["dot", "cosine"] = "dot",
    layer: int | None = None,
) -> Mixing:
    """Routing by pilots.

    Args:
        pilots: per expert, at most, when they are taken from the cards.
        over: an expert's similarity is that of its best pilot ("max") or the mean over its pilots ("mean").
        similarity: of embeddings.
        layer: behind which block queries are read, counted from 1; None for the last.
    """
    if pilots < 1:
        raise RosterError(f"routerretriever: there must be at least 1 pilot per expert, not {pilots}")

    def prepare(part: Any, site: Site, surroundings: Surroundings) -> None:
        if isinstance(part, Pilots):
            check_examples(surroundings.library, "routerretriever")
            part.learn_examples(surroundings, pilots, "routerretriever")

    return Mixing(
        lambda site: Router(Decided(site.num_experts), Given(1)),
        at="model",
        head=lambda whole: Pilots(whole.width, whole.num_experts, over, similarity, layer),
        head_reads="prompt",
        prepare=prepare,
        one_per_prompt=True,
    )


RECIPE = Recipe(
    slug="routerretriever",
    title="RouterRetriever",
    source="Lee et al., 2024, RouterRetriever: Routing over a Mixture of Expert Embedding Models, arXiv:2409.02685",
    compose=routerretriever,
    trains="nothing",
    batch_invariant=True,
    claim="Queries routed to domain experts find more than one retriever trained on all domains does.",
    evidence="tests/recipes/test_pilots.py",
    needs=("examples",),
)
