"""LocMoE's own claim: with the locality loss fewer tokens cross nodes at an equal error, and nothing is dropped at the
predicted capacity.

Toy: two nodes with two experts each; the rows of the first half of a batch lie on the first node. Four clusters of
tokens: each node draws nine tenths of its tokens from two of them. A linear layer before the gate, which has no
parameters itself, learns where the tokens go. "shuffled" gives both nodes the same mixture of clusters: there a gate
that reads the token alone cannot know its node. The capacity is predicted from one sample and tried on another.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from evidence.checks.blocks import Batch, Net, train
from evidence.checks.clusters import WIDTH, Clusters, mean_error, net, routes
from roster.balance import Locality
from roster.context import Context
from roster.recipes.moe.locmoe import capacity_bound
from roster.select import Capacity, TopK

ROWS, STEPS = 256, 600


class Before(Net):
    """A net with a linear layer before its block."""

    def forward(self, x_BD: Tensor, task_B: Tensor | None = None, context: Context | None = None) -> Tensor:
        """Outputs [B, O]."""
        return super().forward(self.first(x_BD), task_B, context)


def check(seed: int) -> dict[str, float]:
    """Shares of tokens that cross nodes, relative errors, and tokens dropped at the predicted capacity."""
    figures = {}
    for name, weight, own in (("without", 0.0, 0.9), ("with", 0.1, 0.9), ("with, shuffled", 0.1, 0.5)):
        torch.manual_seed(seed)
        field = Clusters(4)

        def draw(field=field, own=own, rows: int = ROWS) -> Batch:
            node_B = torch.arange(rows) * 2 // rows
            from_B = torch.where(torch.rand(rows) < own, node_B, 1 - node_B)
            return field.of(2 * from_B + torch.randint(0, 2, (rows,)))

        contender = net("locmoe", {"locality": weight, "balance": 0.05})
        contender.__class__ = Before
        contender.first = nn.Linear(WIDTH, WIDTH)
        train(contender, draw, STEPS)
        batch = draw(rows=2048)
        local_TE = Locality([0, 0, 1, 1]).local_TE(Context(2048, 1))
        crosses = 1 - float((routes(contender, batch)[0].chosen() & local_TE).sum() / 2048)
        figures[f"{name}: cross-node"], figures[f"{name}: error"] = crosses, mean_error(contender, draw)
        figures[f"{name}: dropped"] = float(_dropped(contender, draw(rows=2048)[0], draw(rows=2048)[0]))
    return figures


@torch.no_grad()
def _dropped(contender: Net, known_BD: Tensor, fresh_BD: Tensor) -> int:
    gate = contender.blocks[0].router.score
    factor = capacity_bound(contender.first(known_BD), gate.weight_ED)
    here = Context(len(fresh_BD), 1)
    return int(Capacity(TopK(1), factor)(gate(contender.first(fresh_BD), here), here).dropped_E.sum())


def shown(figures: list[dict[str, float]]) -> bool:
    """At every seed fewer tokens cross with the loss than without, at an error at most 5 % higher, and none is
    dropped.
    """
    return all(
        each["with: cross-node"] < each["without: cross-node"]
        and each["with: error"] <= 1.05 * each["without: error"]
        and each["with: dropped"] == 0
        for each in figures
    )
