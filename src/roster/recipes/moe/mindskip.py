"""Router-Tuning with MindSkip: a router per attention block lets tokens go without it; nothing else is trained.

Equation: y = x + g(x) Attention(x), g = 1 where sigmoid(w x + b) >= 0.5, else 0, trained straight through; plus
|mean g - keep|.
Shapes: router [1, D], bias [1].
Trains: the routers, on a model that is trained already.
Siblings: mixture of depths skips whole blocks and trains everything.
Source: He et al., 2024, "Router-Tuning", arXiv:2410.13184.
Differences: decides per token, where the released code decides per sequence; the penalty's form is from memory. A token
that skips is still read by others, so its keys and values are computed.
"""

from __future__ import annotations

from torch import nn

from roster.balance import Duty
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Linear, Offset
from roster.select import Threshold


def router_tuning_mindskip(keep: float = 0.5, penalty: float = 0.1, start: float = 1.0) -> Layout:
    """Attention that tokens may skip.

    Args:
        keep: share of tokens that are to attend, over training.
        penalty: weight of the loss that holds the share.
        start: of b; above zero everybody attends before the training, as the model is used to.
    """

    def block(place: Place) -> nn.Module:
        score = Offset(Linear(place.width, 1), 1, start)
        return Router(score, Threshold(), [Duty(keep, penalty)])

    return Layout(block, trains=frozenset({"router"}), at="attention")


RECIPE = Recipe(
    slug="router-tuning-mindskip",
    title="Router-Tuning, MindSkip",
    source="He et al., 2024, Router-Tuning: Enabling Dynamic-Depth in Transformers, arXiv:2410.13184",
    compose=router_tuning_mindskip,
    trains="router",
    batch_invariant=True,
    claim="Training the routers alone skips half of the attention at a smaller loss than skipping at random or in "
    "fixed layers.",
    evidence="docs/results/claims.md",
    needs=("training",),
    kind="moe",
)
