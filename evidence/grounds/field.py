"""The field of clusters (`evidence.checks.clusters`) under the protocol: tasks from the ground, the rest from luck.

Contenders are made here from a recipe, its options and a change by hand; all are trained by the same code for as many
steps and judged on the same fresh tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from evidence.checks.blocks import Net, train
from evidence.checks.clusters import Clusters, mean_error, net
from evidence.protocol.check import Contender, Draw
from roster.context import Context
from roster.select import TopK

STEPS = 600
Change = Callable[[Net], None]


def field(draw: Draw, kind: type[Clusters] = Clusters, count: int = 12, **more: Any) -> Clusters:
    """The tasks of a ground; what is drawn afterwards is luck."""
    torch.manual_seed(draw.ground)
    made = kind(count, **more)
    torch.manual_seed(draw.luck + 1_000)
    return made


def learned(
    draw: Draw,
    ground: Clusters,
    recipe: str,
    options: Mapping[str, Any] | None = None,
    change: Change | None = None,
    steps: int = STEPS,
    make: Callable[..., Net] = net,
    **more: Any,
) -> Net:
    """A trained contender."""
    contender = make(recipe, options, **more)
    if change is not None:
        change(contender)
    train(contender, ground.draw, draw.steps(steps))
    return contender


def missed(draw: Draw, contender: Net, ground: Clusters) -> float:
    """Relative squared error on fresh tokens, the same for all contenders of a ground."""
    torch.manual_seed(draw.ground + 500_000)
    return mean_error(contender, ground.draw)


def error_of(
    recipe: str,
    options: Mapping[str, Any] | None = None,
    *,
    kind: type[Clusters] = Clusters,
    skew: float = 0.0,
    count: int = 12,
    **more: Any,
) -> Contender:
    """A contender whose statistic is its error; `more` as `learned` takes it."""

    def run(draw: Draw) -> float:
        ground = field(draw, kind, count, skew=skew) if skew else field(draw, kind, count)
        return missed(draw, learned(draw, ground, recipe, options, **more), ground)

    return run


def over_all(k: int) -> Change:
    """Top-k whose weights are the probabilities among all experts, not renormalised over the chosen."""

    def change(contender: Net) -> None:
        block: Any = contender.blocks[0]
        block.router.select = TopK(k, "all")

    return change


class Lot(nn.Module):
    """Scores drawn anew at every call: what a mixture is worth whose router knows nothing."""

    def __init__(self, num_experts: int):
        super().__init__()
        self.num_experts = num_experts

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """Scores [T, E]."""
        return torch.randn(len(x_TD), self.num_experts)


def by_lot(k: int) -> Change:
    """k experts at random with even weights, and no balance loss."""

    def change(contender: Net) -> None:
        block: Any = contender.blocks[0]
        block.router.score, block.router.select = Lot(block.experts.num_experts), TopK(k, temperature=1e6)
        block.router.balance = nn.ModuleList()

    return change
