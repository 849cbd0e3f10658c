"""GW-MoE's own claim: after fine-tuning with broadcasts, the loss on uncertain tokens depends less on who serves them.

Toy: a mixture (8 experts, top-2) learns 12 clusters of tokens, then other functions of the same clusters, with tokens
broadcast whose routing entropy is in the upper tenth, or without. Then uncertain tokens are served by pairs of experts
drawn at random; the spread is the deviation of a token's squared error over the draws.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from evidence.checks.blocks import Net, teacher, train
from evidence.checks.clusters import OUT, WIDTH, Clusters, mean_error, net, routes
from roster.context import Context
from roster.route import Route
from roster.select.broadcast import uncertainty

DRAWS = 16


class Drawn(nn.Module):
    """Two experts at random, weighted as top-2 would weigh them."""

    reads_bias = False

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> Route:
        """A route with two slots per token."""
        expert_TK = torch.rand_like(scores_TE).topk(2, dim=1).indices
        return Route.slots(expert_TK, scores_TE.gather(1, expert_TK).softmax(1), scores_TE.shape[1], full=True)


def check(seed: int) -> dict[str, float]:
    """Spread on uncertain tokens and error, after either fine-tuning."""
    torch.manual_seed(seed)
    field = Clusters(12)
    start = net("gw-moe", {"begin": 1.0})
    train(start, field.draw, 400)
    field.functions = [teacher(WIDTH, OUT) for _ in field.functions]
    entropy_T = _uncertainty(start, field.draw(4096)[0])
    figures = {}
    for name in ("top-2", "GW-MoE"):
        torch.manual_seed(seed + 1)
        tuned = copy.deepcopy(start)
        select = tuned.blocks[0].router.select
        select.above, select.begin = float(entropy_T.quantile(0.9)), 0.0 if name == "GW-MoE" else 2.0
        select.on.fill_(name == "GW-MoE")
        train(tuned, field.draw, 300)
        figures[f"{name}: error"] = mean_error(tuned, field.draw)
        figures[f"{name}: spread on uncertain tokens"] = _spread(tuned, field)
    return figures


def shown(figures: list[dict[str, float]]) -> bool:
    """The spread is smaller with broadcasts on average and at most seeds, and the mean error at most 5 % higher."""
    names = ("GW-MoE: spread on uncertain tokens", "top-2: spread on uncertain tokens")
    ours, theirs = (np.array([each[name] for each in figures]) for name in names)
    errors = [np.mean([each[f"{name}: error"] for each in figures]) for name in ("GW-MoE", "top-2")]
    return bool(ours.mean() < theirs.mean() and (ours < theirs).mean() > 0.5 and errors[0] <= 1.05 * errors[1])


@torch.no_grad()
def _uncertainty(model: Net, x_BD: Tensor) -> Tensor:
    route = routes(model.eval(), (x_BD, x_BD, torch.zeros(len(x_BD), dtype=torch.int64)))[0]
    return uncertainty(route.scores_TE.softmax(1))


@torch.no_grad()
def _spread(model: Net, field: Clusters) -> float:
    x_BD, y_BO, task_B = field.draw(8192)
    entropy_B = _uncertainty(model, x_BD)
    unsure_B = entropy_B >= entropy_B.quantile(0.9)
    x_BD, y_BO, task_B = x_BD[unsure_B], y_BO[unsure_B], task_B[unsure_B]
    model.blocks[0].router.select = Drawn()
    error_NB = torch.stack([(model(x_BD, task_B) - y_BO).square().mean(1) for _ in range(DRAWS)])
    return float(error_NB.std(0).mean())
