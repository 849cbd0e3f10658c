"""SiRA: LoRA experts under a sparse gate with a capacity, some of them out of reach of each token while training.

Equation: y = W x + sum over the top k of p_e scale_e B_e A_e x, p = softmax(W_g x) over the experts that the token did
    not lose; in training an expert takes at most ceil(capacity * pairs / E) tokens of a call, and the rest do without.
Shapes: one router per linear layer, [E, I].
Trains: routers and experts together.
Siblings: `mov-molora` mixes all experts.
Source: Zhu et al., 2023, "SiRA: Sparse Mixture of Low Rank Adaptation", arXiv:2311.09179.
Differences: the capacity holds in training only, where the source does not say: who is dropped depends on the other
    rows of a call, and at evaluation a row must answer for itself. Which experts a token loses (`dropout`) is drawn per
    token, a whole number of them: at 4 experts and 0.1, none. The balancing loss is Switch's.
"""

from __future__ import annotations

from roster.adapters.mixing import Mixing, Site
from roster.balance import LoadBalancing
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Linear
from roster.select import Capacity, ClusterDropout, TopK


def sira(
    top_k: int = 4,
    capacity: float = 1.25,
    dropout: float = 0.1,
    balance: float = 0.01,
    train_experts: bool = True,
) -> Mixing:
    """Sparse mixture of low-rank adapters.

    Args:
        top_k: experts per token and layer.
        capacity: tokens that an expert takes while training, relative to an even load.
        dropout: share of the experts that each token loses while training.
        balance: coefficient of the load-balancing loss.
        train_experts: False trains only the routers.
    """

    def router(site: Site) -> Router:
        chosen = ClusterDropout(TopK(top_k, "all"), [0] * site.num_experts, dropout)
        select = Capacity(chosen, capacity, "score", when="training")
        return Router(Linear(site.width, site.num_experts), select, [LoadBalancing(balance)])

    return Mixing(router, at="linear", trains=frozenset({"router", "experts"} if train_experts else {"router"}))


RECIPE = Recipe(
    slug="sira",
    title="SiRA",
    source="Zhu et al., 2023, SiRA: Sparse Mixture of Low Rank Adaptation, arXiv:2311.09179",
    compose=sira,
    trains="router and experts",
    batch_invariant=True,
    claim="Sparse experts with a capacity and expert dropout beat one LoRA, and overfit less.",
    evidence="tests/recipes/test_skills_in_heads.py",
    needs=("training",),
)
