"""MPOE's own claim: experts with a shared core reach the error of independent ones with a fraction of their parameters,
and the gradient mask helps.

That a dense block is written exactly at full bonds is shown by tests/recipes/test_layer_recipes.py. Toy: 8 clusters,
top-1 among 8 experts with a load-balancing loss of 0.01. These are the second settings: with 32 hidden units the outer
tensors of 8 experts alone have more entries than 8 independent experts, so that there is nothing to save.
"""

from __future__ import annotations

import numpy as np
import torch

from evidence.checks.blocks import train
from evidence.checks.clusters import Clusters, mean_error, net

STEPS, HIDDEN = 800, 256
CONTENDERS = {
    "independent": ("switch-transformer", {"num_experts": 8}),
    "shared core": ("mpoe", {"num_experts": 8}),
    "shared core, no mask": ("mpoe", {"num_experts": 8, "mask": 0.0}),
}


def check(seed: int) -> dict[str, float]:
    """Relative errors and parameters of the experts."""
    figures = {}
    for name, (recipe, options) in CONTENDERS.items():
        torch.manual_seed(seed)
        field = Clusters(8)
        contender = train(net(recipe, options, hidden=HIDDEN), field.draw, STEPS)
        figures[f"{name}: error"] = mean_error(contender, field.draw)
        figures[f"{name}: parameters"] = float(sum(p.numel() for p in contender.blocks[0].experts.parameters()))
    return figures


def shown(figures: list[dict[str, float]]) -> bool:
    """On average the error with a shared core is at most 1.02 times that of independent experts, with at most half of
    the parameters, and without the mask it is higher.
    """
    means = {name: np.mean([each[name] for each in figures]) for name in figures[0]}
    error, without = means["shared core: error"], means["shared core, no mask: error"]
    fewer = means["shared core: parameters"] <= means["independent: parameters"] / 2
    return bool(error <= 1.02 * means["independent: error"] and fewer and without > error)
