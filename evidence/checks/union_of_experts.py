"""Union of experts' own claim: with routing at half of the arithmetic, the error is below that of random masks.

That all experts together are the dense block is shown by tests/recipes/test_layer_recipes.py. Toy: 8 clusters; a dense
block in 8 slices of which each token uses 4, chosen by a trained router or at random for every token, in training and
afterwards. "all" uses all 8, at twice the arithmetic.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from evidence.checks.blocks import train
from evidence.checks.clusters import Clusters, mean_error, net
from roster.context import Context

STEPS = 800


class Lots(nn.Module):
    """Random scores, drawn anew in every call."""

    def __init__(self, num_experts: int):
        super().__init__()
        self.num_experts = num_experts

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """Scores [T, E]."""
        return torch.rand(len(x_TD), self.num_experts)


def check(seed: int) -> dict[str, float]:
    """Relative errors."""
    figures = {}
    for name, k in (("routed", 4), ("random masks", 4), ("all", 8)):
        torch.manual_seed(seed)
        field = Clusters(8)
        contender = net("union-of-experts", {"k": k, "patch": 1}, hidden=8 * k)
        if name == "random masks":
            contender.blocks[0].router.score = Lots(8)
        train(contender, field.draw, STEPS)
        figures[name] = mean_error(contender, field.draw)
    return figures


def shown(figures: list[dict[str, float]]) -> bool:
    """At every seed the routed error is below that of random masks."""
    return all(each["routed"] < each["random masks"] for each in figures)
