"""Arrow routing: each linear layer asks which expert's update answers this token most strongly.

Equation: v_e = first right singular vector of B_e A_e; scores = |v_e . x|; softmax over the top k.
Shapes: one direction per expert and linear layer, [E, I].
Trains: nothing. The directions are computed from the adapters when the mixture is built (an exact SVD of a small
    matrix) and stored with the hashes of the weights they were made from.
Siblings: PHATGOOSE learns a vector per expert where Arrow reads it off the weights.
Source: Ostapenko, Su, Ponti, Charlin, Le Roux, Pereira, Caccia, Sordoni, 2024, "Towards Modular LLMs by Building and
    Reusing a Library of LoRAs", arXiv:2405.11157. Its other half, clustering tasks before training one adapter per
    cluster (MBC), is `roster.library.cluster`.
Differences: the paper's scores are used as they are, without centring or scaling of x. PEFT finds the directions by
    15 power iterations; here they are exact, so the two agree given the same directions (tests).
Claim: not shown here. On planted tasks whose inputs differ it beats uniform mixing, random routing and the best single
    expert at every seed, but closes 47 % of the gap to the oracle where the check asks for half; on the pocket
    models, whose tasks differ in the instruction only, it is worse than the base.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from roster.adapters.mixing import Mixing, Site, Surroundings
from roster.recipes.needs import check_factors
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Prototype
from roster.score.prototype import top_input_direction
from roster.select import TopK


def arrow(top_k: int = 3, temperature: float = 1.0) -> Mixing:
    """Arrow.

    Args:
        top_k: experts per token and layer.
        temperature: of the softmax over the chosen.
    """

    def router(site: Site) -> Router:
        return Router(Prototype(torch.zeros(site.num_experts, site.width)), TopK(top_k, temperature=temperature))

    def prepare(router: Router, site: Site, surroundings: Surroundings) -> None:
        for row_D, update in zip(cast(Tensor, router.score.vectors_ED), site.updates, strict=True):
            if update is not None:
                check_factors(update, "arrow-mbc")
                row_D.copy_(top_input_direction(update.A_RD, update.B_OR))

    return Mixing(router, at="linear", prepare=prepare)


RECIPE = Recipe(
    slug="arrow-mbc",
    title="Arrow",
    source="Ostapenko et al., 2024, Towards Modular LLMs by Building and Reusing a Library of LoRAs, arXiv:2405.11157",
    compose=arrow,
    trains="nothing",
    batch_invariant=True,
    claim="Without any training, Arrow beats uniform mixing and random routing, near the oracle.",
    evidence="docs/results/claims.md",
)
