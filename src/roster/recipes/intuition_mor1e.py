"""Intuition-MoR1E: every rank is an expert, and what the prompt is like helps the router to choose among them.

Equation: s = W_r x + M q, q = softmax(scale cos(prompt, centres)); g = softmax(s) over its k largest, over their sum;
    y = W x + sum_e alpha_e B_e diag(g_e) A_e x, with alpha_e = r_e scale_e.
Shapes: one direction per rank, [E, r, I], and per cluster a vector, [C, V], with a map [E, r, V], at every linear
    layer; centres of clusters [C, D], once.
Trains: routers, maps and ranks together; the centres come from the example prompts by k-means.
Siblings: `smora` without the prompt's part, and with a sigmoid; `mocle` with the prompt's part alone.
Source: Liu et al., 2024, "Intuition-aware Mixture-of-Rank-1-Experts for Parameter Efficient Finetuning",
    arXiv:2404.08985.
Differences: written from the abstract: how the prompt's part joins the router's is not said there, and a sum of logits
    is ours. Prompts are embedded by the base, behind its first block, instead of by a sentence encoder.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from roster.adapters.mixing import Mixing, Site, Surroundings
from roster.adapters.nearness import Nearness
from roster.errors import RosterError
from roster.experts import RankExperts
from roster.recipes.needs import check_examples
from roster.recipes.recipe import Recipe
from roster.recipes.smora import ranks_of
from roster.router import Router
from roster.score import ByCluster, PerRank, Total
from roster.select import TopRanks


def intuition_mor1e(
    k: int = 8, clusters: int = 16, scale: float = 10.0, width: int = 64, layer: int = 1, train_experts: bool = True
) -> Mixing:
    """Rank-1 experts with intuition.

    Args:
        k: ranks per token and layer, of all adapters together.
        clusters: C, at most; with fewer example prompts there are fewer.
        scale: inverse temperature of the softmax over the centres.
        width: V, of a cluster's vector.
        layer: behind which block prompts are read, counted from 1.
        train_experts: False trains only routers and maps.
    """
    if clusters < 1:
        raise RosterError(f"intuition-mor1e: there must be at least 1 cluster, not {clusters}")

    def router(site: Site) -> Router:
        ranks = ranks_of(site)
        intuition = ByCluster(clusters, width, site.num_experts, ranks, std=0.02)
        return Router(Total([PerRank(site.width, ranks), intuition]), TopRanks(k, ranks, "softmax"))

    def prepare(part: Any, site: Site, surroundings: Surroundings) -> None:
        if isinstance(part, Nearness):
            check_examples(surroundings.library, "intuition-mor1e")
            part.learn_clusters(surroundings, clusters, "intuition-mor1e")

    def experts(site: Site) -> nn.Module:
        return RankExperts(site.factors, trains=train_experts)

    return Mixing(
        router,
        at="linear",
        experts=experts,
        head=lambda whole: Nearness(whole.width, "clusters", "share", scale, layer),
        head_reads="prompt",
        prepare=prepare,
        trains=frozenset({"router", "experts"} if train_experts else {"router"}),
    )


RECIPE = Recipe(
    slug="intuition-mor1e",
    title="Intuition-MoR1E",
    source="Liu et al., 2024, Intuition-aware Mixture-of-Rank-1-Experts for Parameter Efficient Finetuning, "
    "arXiv:2404.08985",
    compose=intuition_mor1e,
    trains="router and experts",
    batch_invariant=True,
    claim="Rank-1 experts, guided by clusters of instances, beat a LoRA with as many parameters.",
    evidence="tests/recipes/test_prompts_decide.py",
    needs=("examples", "training"),
)
