"""Capacity-aware inference's own claim: a capacity at inference cuts the load of the busiest expert, which sets the
time of a layer whose experts run side by side; rerouting what overflows costs less than dropping, and dropping by
score less than at random.

Toy: a top-2 mixture of 8 experts, trained without a balance loss on 12 clusters whose frequencies fall as 1 / n; then
one capacity factor of 1.0 with each treatment of what overflows. "busiest" is the load of the busiest expert relative
to an even one; the time of the layer is proportional to it.
"""

from __future__ import annotations

import numpy as np
import torch

from evidence.checks.blocks import error, train
from evidence.checks.clusters import Clusters, excess, net, routes

STEPS, FACTOR = 800, 1.0


def check(seed: int) -> dict[str, float]:
    """Load of the busiest expert, relative errors and share of dropped pairs."""
    torch.manual_seed(seed)
    field = Clusters(12, skew=1.0)
    trained = train(net("capacity-aware-inference", {"factor": 8.0, "balance": 0.0}), field.draw, STEPS)
    batches = [field.draw(1024) for _ in range(4)]
    figures = {}
    for name, factor in (("no capacity", 8.0), *((name, FACTOR) for name in ("random", "order", "score", "reroute"))):
        overflow = "score" if name == "no capacity" else name
        capped = net("capacity-aware-inference", {"factor": factor, "overflow": overflow}).eval()
        capped.load_state_dict(trained.state_dict())
        found = [routes(capped, batch)[0] for batch in batches]
        figures[f"{name}: busiest"] = 1 + float(np.mean([excess(route) for route in found]))
        figures[f"{name}: dropped"] = float(sum(route.dropped_E.sum() for route in found) / (2 * 1024 * len(batches)))
        figures[f"{name}: error"] = float(np.mean([error(capped, batch) for batch in batches]))
    return figures


def shown(figures: list[dict[str, float]]) -> bool:
    """The busiest expert has less to do at every seed, and on average error rises from no capacity over rerouting and
    dropping by score to dropping at random.
    """
    means = {name: np.mean([each[name] for each in figures]) for name in figures[0]}
    busiest = all(each["reroute: busiest"] < each["no capacity: busiest"] for each in figures)
    return bool(busiest and means["reroute: error"] < means["score: error"] < means["random: error"])
