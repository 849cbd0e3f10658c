"""GW-MoE's claim: after fine-tuning with broadcasts, the loss on uncertain tokens depends less on who serves them.

A mixture learns clusters of tokens, then other functions of the same clusters. Then uncertain tokens are served by
pairs of experts at random; the spread is the deviation of a token's squared error over the draws.
"""

from __future__ import annotations

import copy
import math
from typing import Literal

import torch
from torch import Tensor, nn

from evidence.checks.blocks import Net, teacher, train
from evidence.checks.clusters import OUT, WIDTH, Clusters, net, routes
from evidence.grounds.field import field
from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.context import Context
from roster.route import Route
from roster.select import TopK
from roster.select.broadcast import uncertainty

DRAWS, UNSURE, FIRST, TUNING = 16, 0.1, 400, 300
MORE = 1.3
"""A broadcast token costs four times one of top-2; of a tenth of the tokens that is 1.3 times the training."""


class Drawn(nn.Module):
    """Two experts at random, weighted as top-2 would weigh them."""

    reads_bias = False

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> Route:
        """A route with two slots per token."""
        expert_TK = torch.rand_like(scores_TE).topk(2, dim=1).indices
        return Route.slots(expert_TK, scores_TE.gather(1, expert_TK).softmax(1), scores_TE.shape[1], full=True)


class Anyone(nn.Module):
    """Broadcasts a share of the tokens that says nothing of how sure the router is."""

    reads_bias = False

    def __init__(self, share: float):
        super().__init__()
        self.share, self.inner = share, TopK(2)

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> Route:
        """A route with two or all experts per token."""
        route = self.inner(scores_TE, context)
        if not self.training:
            return route
        wide_T1 = torch.rand(len(scores_TE), 1) < self.share
        prob_TE = scores_TE.float().softmax(1)
        return Route.from_gates(torch.where(wide_T1, prob_TE, route.dense().to(prob_TE)), route.chosen() | wide_T1)


def _tuned(way: Literal["top-2", "unsure", "anyone", "everyone"]) -> Contender:
    def run(draw: Draw) -> float:
        ground = field(draw)
        start = net("gw-moe", {"begin": 1.0})
        train(start, ground.draw, draw.steps(FIRST))
        torch.manual_seed(draw.ground + 1)
        ground.functions = [teacher(WIDTH, OUT) for _ in ground.functions]
        above = float(_uncertainty(start, ground.draw(4096)[0]).quantile(1 - UNSURE))
        torch.manual_seed(draw.luck + 2)
        tuned = copy.deepcopy(start)
        router = tuned.blocks[0].router
        if way in ("anyone", "everyone"):
            router.select = Anyone(UNSURE if way == "anyone" else 1.0)
        else:
            router.select.above, router.select.begin = above, 0.0 if way == "unsure" else 2.0
            router.select.on.fill_(way == "unsure")
        train(tuned, ground.draw, draw.steps(round(TUNING * (MORE if way == "top-2" else 1.0))))
        torch.manual_seed(draw.ground + 3)
        return math.log(_spread(tuned, ground))

    return run


@torch.no_grad()
def _uncertainty(model: Net, x_BD: Tensor) -> Tensor:
    route = routes(model.eval(), (x_BD, x_BD, torch.zeros(len(x_BD), dtype=torch.int64)))[0]
    return uncertainty(route.scores_TE.softmax(1))


@torch.no_grad()
def _spread(model: Net, ground: Clusters) -> float:
    x_BD, y_BO, task_B = ground.draw(8192)
    entropy_B = _uncertainty(model, x_BD)
    unsure_B = entropy_B >= entropy_B.quantile(1 - UNSURE)
    x_BD, y_BO, task_B = x_BD[unsure_B], y_BO[unsure_B], task_B[unsure_B]
    model.blocks[0].router.select = Drawn()
    error_NB = torch.stack([(model(x_BD, task_B) - y_BO).square().mean(1) for _ in range(DRAWS)])
    return float(error_NB.std(0).mean())


CHECKS = (
    make_check(
        slug="gw-moe",
        version=1,
        claim="After fine-tuning with broadcasts of uncertain tokens, their loss depends less on who serves them.",
        ground="12 clusters of tokens learned in 400 steps of 256, then other functions of them; one block",
        budget="8 experts of 8 units, 2 serve at evaluation; 300 steps with broadcasts, 390 without: equal arithmetic",
        contenders={
            "GW-MoE": ("the most uncertain tenth goes to all experts", _tuned("unsure")),
            "top-2": ("no broadcasts, 1.3 times the steps", _tuned("top-2")),
            "anyone": ("a tenth goes to all experts, drawn at random", _tuned("anyone")),
            "everyone": ("control: every token goes to all experts", _tuned("everyone")),
        },
        pairs=Pairs("GW-MoE", "top-2", "anyone", "everyone", "top-2"),
        statistic=Statistic("logarithm of the spread of squared errors of the most uncertain tenth", "lower", 0.05),
    ),
)
