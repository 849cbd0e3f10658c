"""SMoRA: every rank of the adapters is an expert; the best k of all ranks serve a token.

Equation: s = sigmoid(W_r x) + b; g = s over the k largest, over their sum, zero elsewhere;
    y = W x + sum_e alpha_e B_e diag(g_e) A_e x, with alpha_e = r_e scale_e.
Shapes: one direction per rank, [E, r, I], at every linear layer; b is [E, r].
Trains: routers and ranks together; b moves against the load (`rate`) and gets no gradient.
Siblings: `mov-molora` switches whole adapters; a mixture of LoRAs is SMoRA with the ranks of each switched together
    (tests).
Source: Zhao et al., 2025, "Each Rank Could be an Expert: Single-Ranked Mixture of Experts LoRA for Multi-Task
    Learning", arXiv:2501.15103; the authors' repository is StyxXuan/smora.
Differences: one LoRA of many ranks in the source is here the adapters of a library laid side by side, so that a folder
    of finished ones can be routed rank by rank; for one adapter the functions are the same (the source writes
    alpha / k times g k). Ranks do not share directions (the source's `rank_partition`).
"""

from __future__ import annotations

from torch import nn

from roster.adapters.mixing import Mixing, Site
from roster.experts import RankExperts
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import PerRank
from roster.select import TopRanks


def smora(k: int = 8, rate: float = 1e-5, train_experts: bool = True) -> Mixing:
    """Every rank an expert.

    Args:
        k: ranks per token and layer, of all adapters together.
        rate: how far the balancing bias moves per optimiser step.
        train_experts: False trains only the routers.
    """

    def router(site: Site) -> Router:
        ranks = ranks_of(site)
        return Router(PerRank(site.width, ranks), TopRanks(k, ranks, rate=rate))

    def experts(site: Site) -> nn.Module:
        return RankExperts(site.factors, trains=train_experts)

    trains = frozenset({"router", "experts"} if train_experts else {"router"})
    return Mixing(router, at="linear", experts=experts, trains=trains)


def ranks_of(site: Site) -> list[int]:
    """The rank of each expert's update here, 0 where it has none."""
    return [0 if each is None else each.A_RD.shape[0] for each in site.updates]


RECIPE = Recipe(
    slug="smora",
    title="SMoRA (single-ranked mixture of experts)",
    source="Zhao et al., 2025, Each Rank Could be an Expert, arXiv:2501.15103",
    compose=smora,
    trains="router and experts",
    batch_invariant=True,
    claim="Few of many ranks, chosen per token, beat a LoRA and a mixture of LoRAs with as many active ranks.",
    evidence="tests/recipes/test_ranks.py",
    needs=("training",),
)
