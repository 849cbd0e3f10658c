"""LocMoE: orthogonal gates made by pooling channels, a loss that keeps tokens on their node, and a capacity.

Equation: s_e = sqrt(D/E) * mean of x over the e-th of E runs of channels; y = p_i E_i(x) with p = softmax(s) and
i = argmax p; plus a balance loss and b * KL(local || p), local being p restricted to the experts of the token's node.
Shapes: gate directions [E, D], fixed.
Trains: the experts and the rest of the model; the gate has no parameters.
Siblings: Switch, whose gate is a trained matrix.
Source: Li et al., 2024, "LocMoE: A Low-overhead MoE for Large Language Model Training", arXiv:2401.13920.
Differences: nodes are simulated (the rows of a batch lie on them in equal runs); the capacity is off by default and
then holds in training only, so that the method stays batch invariant. `capacity_bound` finds one at which nothing is
dropped, from the largest angle between a gate's direction and its tokens, and `capacity=` sets it as a factor. The
source's own bound is a formula in that angle for evenly spread tokens; here the tokens within the angle are counted.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roster.balance import LoadBalancing, Locality
from roster.errors import RosterError
from roster.moe.layer import MoE
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import GroupedPooling
from roster.select import Capacity, TopK


def locmoe(
    num_experts: int = 4, nodes: int = 2, locality: float = 0.01, balance: float = 0.01, capacity: float = 0.0
) -> Layout:
    """Top-1 routing that prefers the token's own node.

    Args:
        num_experts: E, a multiple of `nodes`.
        nodes: how many; experts of one node follow each other.
        locality: weight of the locality loss.
        balance: weight of the load-balancing loss.
        capacity: of each expert, in training, as a factor of an even load; 0 is none.
    """
    if nodes < 1 or num_experts % nodes:
        raise RosterError(f"recipe 'locmoe': num_experts={num_experts} do not divide among nodes={nodes}")
    node_of = tuple(expert * nodes // num_experts for expert in range(num_experts))

    def block(place: Place) -> nn.Module:
        select = TopK(1, "all")
        router = Router(
            GroupedPooling(place.width, num_experts),
            Capacity(select, capacity, when="training") if capacity else select,
            [LoadBalancing(balance), Locality(node_of, locality)],
        )
        return MoE(router, place.make_experts(num_experts, place.hidden))

    return Layout(block, kinds=node_of, trains=frozenset({"experts", "base"}))


def capacity_bound(x_TD: Tensor, weight_ED: Tensor) -> float:
    """A capacity factor at which top-1 routing drops none of these tokens, from angles alone.

    An expert's tokens lie within the largest angle between them and its direction, so it can get no more tokens than
    lie within that angle.
    """
    cosine_TE = F.normalize(x_TD.float(), dim=1) @ F.normalize(weight_ED.float(), dim=1).T
    chosen_TE = F.one_hot((x_TD.float() @ weight_ED.float().T).argmax(1), len(weight_ED)).bool()
    widest_E = cosine_TE.masked_fill(~chosen_TE, torch.inf).min(0).values
    within_E = (cosine_TE >= widest_E).sum(0)
    return float(within_E.max() * len(weight_ED) / max(1, len(x_TD)))


RECIPE = Recipe(
    slug="locmoe",
    title="LocMoE",
    source="Li et al., 2024, LocMoE: A Low-overhead MoE for Large Language Model Training, arXiv:2401.13920",
    compose=locmoe,
    trains="everything",
    batch_invariant=True,
    claim="Fewer tokens cross nodes at an equal loss, and none is dropped at the predicted capacity.",
    evidence="docs/results/claims.md",
    kind="moe",
)
