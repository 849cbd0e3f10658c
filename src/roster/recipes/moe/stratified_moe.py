"""Stratified MoE: experts in ordered strata; a token climbs from its expert's stratum to the next until the last.

Equation: h = x, at stratum 0; in every stratum j that the token stands at: p = softmax(W_j norm(h)) over the experts of
strata j and later, i = argmax p, h <- h + p_i E_i(norm(h)), and the token goes on to the stratum after that of i.
y = h - x.
Shapes: one router [E, D] per stratum over all E experts, those of earlier strata barred.
Trains: everything together.
Siblings: with one stratum this is Switch.
Source: Xu, Elbayad, Murray, Maillard and Goswami, 2023, "Towards Being Parameter-Efficient: A Stratified Sparsely
Activated Transformer with Dynamic Capacity", arXiv:2305.02176.
Differences: a token may use `strata` experts, so each is that much narrower than Switch's; the first stratum reads the
block's input as the model has normalised it.
"""

from __future__ import annotations

from torch import nn

from roster.errors import RosterError
from roster.moe.layout import Layout, Place
from roster.moe.strata import Strata
from roster.recipes.recipe import Recipe


def stratified_moe(num_experts: int = 8, strata: int = 2, balance: float = 0.01) -> Layout:
    """Strata of experts.

    Args:
        num_experts: E, a multiple of `strata`.
        strata: how many; experts of one stratum follow each other.
        balance: weight of the load-balancing loss of every stratum.
    """
    if strata < 1 or num_experts % strata:
        raise RosterError(f"recipe 'stratified-moe': num_experts={num_experts} do not divide into strata={strata}")
    stratum_of = tuple(expert * strata // num_experts for expert in range(num_experts))

    def block(place: Place) -> nn.Module:
        experts = place.make_experts(num_experts, place.share(strata))
        return Strata(place.width, experts, stratum_of, balance)

    return Layout(block, kinds=stratum_of)


RECIPE = Recipe(
    slug="stratified-moe",
    title="SMoE (stratified mixture of experts)",
    source="Xu et al., 2023, Towards Being Parameter-Efficient, arXiv:2305.02176",
    compose=stratified_moe,
    trains="everything",
    batch_invariant=True,
    claim="Harder tokens pass more strata, and the loss is below that of a flat mixture with as many parameters.",
    evidence="docs/results/claims.md",
    kind="moe",
)
