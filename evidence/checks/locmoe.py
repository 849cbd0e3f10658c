"""LocMoE's claim: with the locality loss fewer tokens cross nodes at an equal error.

Two nodes with two experts each; the rows of the first half of a batch lie on the first node. Four clusters of tokens,
of which each node draws nine tenths from two. Where an expert lies is a matter of placement, and placing the trained
experts costs nothing: the baseline is trained without the loss and its experts are then placed as is best.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from evidence.checks.blocks import Batch, Net, train
from evidence.checks.clusters import WIDTH, Clusters, mean_error, net, routes
from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.context import Context

ROWS, STEPS, OWN, EXPERTS = 256, 600, 0.9, 4


class Before(Net):
    """A net with a linear layer before its block: the gate has no parameters, and this learns where tokens go."""

    def forward(self, x_BD: Tensor, task_B: Tensor | None = None, context: Context | None = None) -> Tensor:
        """Outputs [B, O]."""
        return super().forward(self.first(x_BD), task_B, context)


def _rows(ground: Clusters, rows: int = ROWS) -> Batch:
    node_B = torch.arange(rows) * 2 // rows
    from_B = torch.where(torch.rand(rows) < OWN, node_B, 1 - node_B)
    return ground.of(2 * from_B + torch.randint(0, 2, (rows,)))


def _learned(draw: Draw, locality: float) -> tuple[Net, Clusters]:
    torch.manual_seed(draw.ground)
    ground = Clusters(4)
    torch.manual_seed(draw.luck + 1_000)
    made = net("locmoe", {"locality": locality, "balance": 0.05})
    made.__class__, made.first = Before, nn.Linear(WIDTH, WIDTH)
    train(made, lambda: _rows(ground), draw.steps(STEPS))
    torch.manual_seed(draw.ground + 500_000)
    return made, ground


def _crossing(locality: float, placed: bool) -> Contender:
    """Share of tokens whose expert lies on the other node."""

    def run(draw: Draw) -> float:
        made, ground = _learned(draw, locality)
        batch = _rows(ground, 4096)
        chosen_BE = routes(made, batch)[0].chosen().float()
        here_NE = torch.stack([half.sum(0) for half in chosen_BE.chunk(2)])  # tokens of each node at each expert
        as_it_is = float(here_NE[0, :2].sum() + here_NE[1, 2:].sum())
        ways = [_kept(here_NE, first) for first in combinations(range(EXPERTS), 2)] if placed else [as_it_is]
        return 1 - max(ways) / len(batch[0])

    return run


def _kept(here_NE: Tensor, first: tuple[int, ...]) -> float:
    on_first_E = torch.zeros(EXPERTS, dtype=torch.bool)
    on_first_E[list(first)] = True
    return float(here_NE[0, on_first_E].sum() + here_NE[1, ~on_first_E].sum())


def _error(locality: float) -> Contender:
    def run(draw: Draw) -> float:
        made, ground = _learned(draw, locality)
        return mean_error(made, lambda: _rows(ground))

    return run


def _handicapped(draw: Draw) -> float:
    """A tenth of the training."""
    return _error(0.0)(Draw(draw.ground, draw.luck, True))


COMMON: dict[str, Any] = {
    "slug": "locmoe",
    "version": 1,
    "ground": "two nodes of two experts, four clusters of tokens, a node draws nine tenths of its tokens from two",
    "budget": "4 experts of 16 units, one serves; the same gate without parameters, balance 0.05",
}

CHECKS = (
    make_check(
        part="crossing",
        claim="With the locality loss fewer tokens cross nodes.",
        contenders={
            "locality": ("locality loss 0.1", _crossing(0.1, placed=False)),
            "placed": ("without the loss, experts placed as is best after training", _crossing(0.0, placed=True)),
            "as it is": ("control: without the loss, experts where they happen to be", _crossing(0.0, placed=False)),
        },
        pairs=Pairs("locality", "placed", "placed", "placed", "as it is"),
        statistic=Statistic("share of tokens that cross", "lower", 0.02),
        **COMMON,
    ),
    make_check(
        part="error",
        claim="The locality loss costs no quality.",
        contenders={
            "locality": ("locality loss 0.1", _error(0.1)),
            "without": ("no locality loss", _error(0.0)),
            "untrained": ("control: a handicap, hardly any training", _handicapped),
        },
        pairs=Pairs("locality", "without", "untrained", "untrained", "without"),
        statistic=Statistic("relative squared error on fresh tokens", "lower", 0.02, "no worse"),
        **COMMON,
    ),
)
