"""ScaLearn: finished adapters stay as they are; a new task learns how much of each it takes.

Equation: y = W x + sum_e w_e * (scale_e B_e A_e x), w_e a vector over the output's features, a number per layer
    ("uniform"), or one number for the whole network ("uniform++"); they need not sum to one.
Shapes: w is [E, O] at every linear layer, [E] at every linear layer, or [E].
Trains: w alone. It begins at 2 / E, with little noise; while training a share of the weights is dropped.
Siblings: `uniform` is w = 1 / E; AdapterFusion, which the source is held against, reads every token.
Source: Frohmann et al., 2023, "ScaLearn: Simple and Highly Parameter-Efficient Task Transfer by Learning to Scale",
    arXiv:2310.01217; the authors' repository is CPJKU/ScaLearn.
Differences: adapters are LoRAs of any linear layers, where the source's are bottlenecks behind feed-forward blocks; so
    each layer has outputs of its own width, and the source's fourth form, one vector for all layers (ScaLearn++), has
    no meaning. Scales on a LoRA's output fold into its B: `merge` writes one plain adapter, exactly, in every form.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from roster.adapters.mixing import Mixing, Site
from roster.experts import ScaledExperts
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Constant
from roster.select import All, Dropped

Form = Literal["vectors", "uniform", "uniform++"]


def scalearn(form: Form = "vectors", dropout: float = 0.3) -> Mixing:
    """Learning to scale.

    Args:
        form: "vectors" over the outputs of every layer, or one number per adapter and layer ("uniform"), or one per
            adapter ("uniform++").
        dropout: share of the weights that a training call does without.
    """

    def router(site: Site) -> Router:
        E = site.num_experts
        if form == "vectors":
            return Router(Constant(torch.ones(E)), All("none"))
        return Router(Constant(2 / E + 1e-3 * torch.randn(E), trains=True), Dropped(All("none"), dropout))

    def experts(site: Site) -> nn.Module:
        return ScaledExperts(site.factors, 2 / site.num_experts, dropout=dropout)

    return Mixing(
        router,
        at="model" if form == "uniform++" else "linear",
        experts=experts if form == "vectors" else None,
        trains=frozenset({"experts"} if form == "vectors" else {"router"}),
        constant="always",
    )


RECIPE = Recipe(
    slug="scalearn",
    title="ScaLearn",
    source="Frohmann et al., 2023, ScaLearn: Simple and Highly Parameter-Efficient Task Transfer by Learning to Scale, "
    "arXiv:2310.01217",
    compose=scalearn,
    trains="experts",
    batch_invariant=True,
    claim="A few scales over frozen adapters transfer as well as fusing them by attention, with far fewer parameters.",
    evidence="tests/recipes/test_transfer.py",
    needs=("training",),
)
