"""MoV and MoLORA: light experts on a frozen model, all of them mixed by a soft router at every linear layer.

Equation: s = softmax(W_g x); MoLORA: y = W x + sum_e s_e scale_e B_e A_e x; MoV: y = (W x) * (sum_e s_e l_e).
Shapes: one router per linear layer, [E, I].
Trains: routers and experts together, from scratch in the source; `train_experts=False` learns only the routers of a
    folder of finished adapters.
Source: Zadouri, Ustun, Ahmadian, Ermis, Locatelli, Hooker, 2023, "Pushing Mixture of Experts to the Limit: Extremely
    Parameter Efficient MoE for Instruction Tuning", arXiv:2309.05444.
Differences: the source routes by a sentence embedding or by tokens; here by tokens, its better variant. It writes
    the mixture of LoRAs as a mean of expert parameters; here the updates B_e A_e are averaged, which is the mean of
    the experts' functions, not the product of the means of B and A.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from roster.adapters.mixing import Mixing, Site
from roster.errors import RosterError
from roster.experts import ScalingExperts
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Linear
from roster.select import All


def molora(experts: Literal["lora", "vectors"] = "lora", train_experts: bool = True) -> Mixing:
    """MoLORA, or MoV with `experts="vectors"`.

    Args:
        experts: LoRA updates, or vectors that rescale a layer's output (the adapters then only say which layers).
        train_experts: False trains only the routers.
    """
    if experts not in ("lora", "vectors"):
        raise RosterError(f"mov-molora: experts must be 'lora' or 'vectors', not {experts!r}")

    def router(site: Site) -> Router:
        return Router(Linear(site.width, site.num_experts), All())

    def vectors(site: Site) -> nn.Module:
        return ScalingExperts(site.num_experts, site.out_features, std=0.02, trains=train_experts)

    return Mixing(
        router,
        at="linear",
        experts=vectors if experts == "vectors" else None,
        trains=frozenset({"router", "experts"} if train_experts else {"router"}),
    )


RECIPE = Recipe(
    slug="mov-molora",
    title="MoV / MoLORA",
    source="Zadouri et al., 2023, Pushing Mixture of Experts to the Limit, arXiv:2309.05444",
    compose=molora,
    trains="router and experts",
    batch_invariant=True,
    claim="On par with full fine-tuning by only updating the lightweight experts.",
    evidence="docs/results/claims.md",
    needs=("training",),
)
