"""EvoMoE: one expert is trained, copied to all with random damage, and a gate that begins dense ends with about one.

Equation: g = softmax((W x + Gumbel noise) / tau); y = sum of g_e E_e(x) over g_e >= threshold; tau falls.
Shapes: router [E, D].
Trains: everything together.
Siblings: Switch begins with random experts and one of them per token.
Source: Nie et al., 2021, "EvoMoE: An Evolutional Mixture-of-Experts Training Framework via Dense-To-Sparse Gate",
arXiv:2112.14397.
Differences: the stages are shares of one training; before the copies are made all experts are the one, and the gate,
which is flat and not trained until then, makes a token cost as much as it will right after. As in the source's code
the threshold is 0.001 and one expert serves at evaluation, so that with few experts a training step stays dense.
"""

from __future__ import annotations

from torch import nn

from roster.balance import LoadBalancing
from roster.experts import Spawned
from roster.moe.layer import MoE
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Linear
from roster.select import DenseToSparse


def evomoe(
    num_experts: int = 4,
    spawn: float = 0.1,
    drop: float = 0.1,
    threshold: float = 0.001,
    start: float = 2.0,
    end: float = 0.3,
    balance: float = 0.01,
) -> Layout:
    """Experts out of one, and a gate from dense to sparse.

    Args:
        num_experts: E.
        spawn: share of the training after which the one expert becomes E.
        drop: share of a copy's weights that are set to zero.
        threshold: gate from which an expert serves.
        start, end: temperature of the gate.
        balance: weight of the load-balancing loss.
    """

    def block(place: Place) -> nn.Module:
        place.check_choice(1, num_experts)
        select = DenseToSparse(threshold, start, end, begin=min(spawn, 0.99), one_after=True)
        router = Router(Linear(place.width, num_experts), select, [LoadBalancing(balance)])
        return MoE(router, Spawned(place.make_experts(num_experts, place.hidden), spawn, drop))

    return Layout(block)


RECIPE = Recipe(
    slug="evomoe",
    title="EvoMoE",
    source="Nie et al., 2021, EvoMoE, arXiv:2112.14397",
    compose=evomoe,
    trains="everything",
    batch_invariant=True,
    claim="Experts that grow out of one, under a gate from dense to sparse, beat a top-1 mixture.",
    evidence="docs/results/claims.md",
    kind="moe",
)
