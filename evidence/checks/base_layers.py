"""BASE layers' own claim: without any balance loss the load is exactly even and the loss no worse than that of top-1
with the best of several balance losses.

Toy: 12 equally frequent clusters of tokens, each with a function of its own, and 4 experts.
"""

from __future__ import annotations

import numpy as np
import torch

from evidence.checks.choosing import error_of, trained
from evidence.checks.clusters import Clusters, mean_error, routes

WEIGHTS = (0.001, 0.01, 0.1)


def check(seed: int) -> dict[str, float]:
    """Errors, and the spread of loads in training."""
    base, ground = trained(Clusters, seed, "base-layers")
    base.train()
    with torch.no_grad():
        load_E = routes(base, ground.draw(1024))[0].counts_E
    base.eval()
    top1 = {
        f"top-1, balance {w}: error": error_of(Clusters, seed, "switch-transformer", {"balance": w}) for w in WEIGHTS
    }
    return {
        "BASE: error": mean_error(base, ground.draw),
        **top1,
        "BASE: most load - least load": float(load_E.max() - load_E.min()),
    }


def shown(figures: list[dict[str, float]]) -> bool:
    """Loads are exactly even at every seed, and the mean error is at most that of the best balance weight."""
    means = {name: np.mean([each[name] for each in figures]) for name in figures[0]}
    best = min(means[f"top-1, balance {w}: error"] for w in WEIGHTS)
    even = all(each["BASE: most load - least load"] == 0 for each in figures)
    return bool(even and means["BASE: error"] <= best)
