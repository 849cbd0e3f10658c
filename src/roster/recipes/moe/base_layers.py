"""BASE layers: in training tokens are assigned to experts so that all are equally busy and the total score is the best.

Equation: a = argmax over assignments with n / E tokens per expert of sum_t w_{a_t} x_t; y = sigmoid(w_a x) E_a(x); at
evaluation a is the argmax of each token.
Shapes: router [E, D].
Trains: everything together; no balance loss.
Siblings: sinkhorn makes the choice even only on average, by a bias; expert choice gives tokens unequal numbers.
Source: Lewis et al., 2021, "BASE Layers", arXiv:2103.16716.
Differences: the assignment is solved over the batch of one device, whose tokens the source mixes across devices first.
The auction stops at a stated distance from the best (`tolerance`; a fiftieth of the spread of the scores is the step of
the authors' own auction). The block replaces a feed-forward block, where the source puts it between two layers.
"""

from __future__ import annotations

from torch import nn

from roster.moe.layer import MoE
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Linear
from roster.select import BalancedAssignment


def base_layers(num_experts: int = 4, tolerance: float = 0.02) -> Layout:
    """Balanced assignment in training, the best expert afterwards.

    Args:
        num_experts: E.
        tolerance: of the assignment's mean score, relative to the spread of the scores.
    """

    def block(place: Place) -> nn.Module:
        place.check_choice(1, num_experts)
        router = Router(Linear(place.width, num_experts), BalancedAssignment(tolerance))
        return MoE(router, place.make_experts(num_experts, place.hidden))

    return Layout(block)


RECIPE = Recipe(
    slug="base-layers",
    title="BASE layers",
    source="Lewis et al., 2021, BASE Layers: Simplifying Training of Large, Sparse Models, arXiv:2103.16716",
    compose=base_layers,
    trains="everything",
    batch_invariant=True,
    claim="Without a balance loss, loads are exactly even and the loss is no worse than that of top-1 with one.",
    evidence="docs/results/claims.md",
    kind="moe",
)
