"""SMEAR: each example is answered by one merged expert, the mean of all by the router's probabilities.

Equation: p = softmax(W mean(x)); theta(x) = sum_e p_e theta_e, with theta_e the update scale_e B_e A_e.
Shapes: one router per block, [E, D].
Trains: routers and experts together by plain backpropagation; `train_experts=False` learns only the routers.
Siblings: MiLoRA keeps the best few; MoLORA decides per token.
Source: Muqeeth, Liu, Raffel, 2023, "Soft Merging of Experts with Adaptive Routing", arXiv:2306.03745.
Differences: what is averaged is the update of each LoRA expert, not A and B separately: experts that were trained
    apart have nothing in common in their factors. The update of a layer is linear in its parameters, so merging the
    experts and mixing their outputs are the same function; the second costs two thin matmuls instead of one full-size
    merge per row. The mean is over the prompt, as a causal model must not pool over tokens it has yet to produce.
    The source's layer norm before the router has no learned parameters here.
"""

from __future__ import annotations

from torch import nn

from roster.adapters.mixing import Mixing, Site
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Linear, PromptPooled
from roster.select import All, ExpertDropout


def smear(train_experts: bool = True, dropout: float = 0.1) -> Mixing:
    """SMEAR on LoRA experts.

    Args:
        dropout: chance that a row of a training batch does without an expert; the others' weights then sum to one.
        train_experts: False trains only the routers.
    """

    def router(site: Site) -> Router:
        norm, select = nn.LayerNorm(site.width, elementwise_affine=False), ExpertDropout(All(), dropout)
        return Router(PromptPooled(Linear(site.width, site.num_experts), f"smear/{site.name}", norm), select)

    trains = frozenset({"router", "experts"} if train_experts else {"router"})
    return Mixing(router, at="block", trains=trains, remembers=True, reads_prompt=True)


RECIPE = Recipe(
    slug="smear",
    title="SMEAR",
    source="Muqeeth, Liu and Raffel, 2023, Soft Merging of Experts with Adaptive Routing, arXiv:2306.03745",
    compose=smear,
    trains="router and experts",
    batch_invariant=True,
    claim="Soft merging, trained by exact gradients, beats discrete routing by estimated gradients and by metadata.",
    evidence="docs/results/claims.md",
    needs=("training",),
)
