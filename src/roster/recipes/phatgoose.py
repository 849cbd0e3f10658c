"""PHATGOOSE: each expert brings a gate vector that was trained alone with it; tokens go to the most similar gates.

Equation: scores = sqrt(I) * cos(x - mean x, v_e - mean v_e), which is the paper's inner product of the standardised
    vectors divided by sqrt(I); softmax over the top k.
Shapes: one vector per expert and linear layer, [E, I].
Trains: the vectors, one expert at a time: y = W x + sigmoid(v . x) * scale B A x on the expert's own data, all else
    frozen (`roster.train.gates`). They are kept beside the adapter in `gates.safetensors`, so that a new expert
    brings its own and no other is touched.
Siblings: Arrow reads the vectors off the weights.
Source: Muqeeth, Liu, Liu, Raffel, 2024, "Learning to Route Among Specialized Experts for Zero-Shot Generalization",
    arXiv:2402.05859.
Differences: none known in the routing; the paper's experts are LoRAs of T5.
Claim: shown on planted tasks whose inputs differ, by a check written after the pocket models had not shown it; not on
    those, whose tasks differ in the instruction only (docs/results/mix.md).
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor

from roster.adapters.mixing import Mixing, Site, Surroundings
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Cosine, Linear
from roster.select import All, TopK


def phatgoose(top_k: int = 2) -> Mixing:
    """PHATGOOSE at inference.

    Args:
        top_k: experts per token and layer.
    """

    def router(site: Site) -> Router:
        vectors_ED = torch.zeros(site.num_experts, site.width)
        return Router(Cosine(vectors_ED, scale=math.sqrt(site.width), center=True), TopK(top_k))

    def prepare(router: Router, site: Site, surroundings: Surroundings) -> None:
        from roster.library.gates import read_gates

        for row_D, name, update in zip(cast(Tensor, router.score.vectors_ED), site.experts, site.updates, strict=True):
            if update is not None:
                row_D.copy_(read_gates(surroundings.library[name])[site.name])

    return Mixing(router, at="linear", prepare=prepare)


def gate_training() -> Mixing:
    """The mixture of a single expert in which its gate vectors are learned; zero vectors start it at one half."""

    def router(site: Site) -> Router:
        return Router(Linear(site.width, site.num_experts, std=0.0), All("sigmoid"))

    return Mixing(router, at="linear", trains=frozenset({"router"}))


RECIPE = Recipe(
    slug="phatgoose",
    title="PHATGOOSE",
    source="Muqeeth et al., 2024, Learning to Route Among Specialized Experts for Zero-Shot Generalization, "
    "arXiv:2402.05859",
    compose=phatgoose,
    trains="router",
    batch_invariant=True,
    claim="Gates trained one expert at a time beat the merged average and the best single expert, without pooled data.",
    evidence="docs/results/claims.md",
    needs=("gates",),
)
