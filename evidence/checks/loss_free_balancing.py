"""Loss-free balancing's own claim: the load is about as even as with a balance loss, at a lower error.

Toy: 12 clusters of tokens, whose frequencies fall as 1 / n, and 8 experts of which each token visits 2. All contenders
have the same gate (sigmoid); what differs is nothing, a balance loss of weight 0.1, or the moving bias (0.01 a step).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from evidence.checks.blocks import train
from evidence.checks.clusters import Clusters, excess, mean_error, net, routes
from roster.balance import LoadBalancing

STEPS = 800


def check(seed: int) -> dict[str, float]:
    """Excess load of the busiest expert (MaxVio) and relative error of each contender."""
    figures = {}
    for name in ("no balance", "balance loss", "loss-free"):
        torch.manual_seed(seed)
        field = Clusters(12, skew=1.0)
        contender = net("loss-free-balancing", {"rate": 0.01})
        router = contender.blocks[0].router
        if name != "loss-free":
            router.balance, router._bias_index = nn.ModuleList(), None
        if name == "balance loss":
            router.balance.append(LoadBalancing(0.1))
        train(contender, field.draw, STEPS)
        figures[f"{name}: excess load"] = excess(routes(contender, field.draw(4096))[0])
        figures[f"{name}: error"] = mean_error(contender, field.draw)
    return figures


def shown(figures: list[dict[str, float]]) -> bool:
    """On average the bias removes at least half of the unbalanced excess load and at least three quarters of what the
    balance loss removes, and its error is below that of the balance loss on average and at most seeds.
    """
    means = {name: np.mean([each[name] for each in figures]) for name in figures[0]}
    without = means["no balance: excess load"]
    removed, by_loss = without - means["loss-free: excess load"], without - means["balance loss: excess load"]
    wins = sum(each["loss-free: error"] < each["balance loss: error"] for each in figures)
    lower = means["loss-free: error"] < means["balance loss: error"] and wins > len(figures) / 2
    return bool(removed >= without / 2 and removed >= 0.75 * by_loss and lower)
