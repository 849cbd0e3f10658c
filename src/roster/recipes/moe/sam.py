"""SAM: one router picks a group of experts, which lies on one device; another picks several experts within it.

Equation: g = argmax softmax(S x); y = sum over the k best i of group g of P_g P_{i|g} E_i(x), P_{.|g} = softmax(M_g x);
plus the load-balancing loss on the joint probabilities.
Shapes: switch router S [G, D], mixture router M [E, D].
Trains: everything together.
Siblings: Switch, where a token visits one device too, with one expert; GShard, whose experts lie anywhere.
Source: Jiang et al., 2021, "Towards More Effective and Economic Sparsely-Activated Model", arXiv:2110.07431.
Differences: one balance loss over the joint probabilities; the source has one per router and a loss that aligns them,
which a joint probability makes unnecessary. Groups are chosen by S alone, as p(g) is the sum of the joint ones.
"""

from __future__ import annotations

from roster.balance import LoadBalancing
from roster.errors import RosterError
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Hierarchical
from roster.select import BestGroup


def sam_switch_mixture(num_experts: int = 8, groups: int = 2, k: int = 2, balance: float = 0.01) -> Layout:
    """A group, then experts in it.

    Args:
        num_experts: E.
        groups: G, which divides E.
        k: experts per token, at most those of a group.
        balance: weight of the load-balancing loss.
    """
    if groups < 1 or num_experts % groups or not 1 <= k <= num_experts // groups:
        raise RosterError(
            f"recipe 'sam-switch-mixture': num_experts={num_experts} in groups={groups} do not make groups of k={k} "
            "experts or more"
        )

    def router(place: Place) -> Router:
        score = Hierarchical(place.width, num_experts, groups)
        return Router(score, BestGroup(groups, k), [LoadBalancing(balance)])

    group_of = tuple(expert * groups // num_experts for expert in range(num_experts))
    return Layout.of(router, num_experts, k, kinds=group_of)


RECIPE = Recipe(
    slug="sam-switch-mixture",
    title="SAM (switch and mixture)",
    source="Jiang et al., 2021, Towards More Effective and Economic Sparsely-Activated Model, arXiv:2110.07431",
    compose=sam_switch_mixture,
    trains="everything",
    batch_invariant=True,
    claim="Every token visits one device, and the loss falls with the number of experts it visits there.",
    evidence="docs/results/claims.md",
    kind="moe",
)
