"""ReMoE's own claim: the experts per token come to k, and the loss is below that of top-k with as many.

Toy: 12 equally frequent clusters of tokens, each with a function of its own; 8 experts, k = 2.

Second settings: first the training had 600 steps and the price moved by 1.2 a step from 1e-8, as in the source, whose
trainings are a hundred times longer; the experts per token were still swinging at the end. Now there are 1,500 steps,
and the price moves by 1.05 from 1e-4.
"""

from __future__ import annotations

import numpy as np

from evidence.checks.choosing import error_of, experts_per_token, trained
from evidence.checks.clusters import Clusters, mean_error


def check(seed: int) -> dict[str, float]:
    """Errors and experts per token."""
    remoe, ground = trained(Clusters, seed, "remoe", {"start": 1e-4, "rate": 1.05}, steps=1500)
    return {
        "ReMoE: error": mean_error(remoe, ground.draw),
        "top-2: error": error_of(Clusters, seed, "gshard-top2", steps=1500),
        "ReMoE: experts per token": float(experts_per_token(remoe, ground)[0].mean()),
    }


def shown(figures: list[dict[str, float]]) -> bool:
    """Experts per token are within a tenth of 2 at every seed, and the error is below that of top-2 on average and at
    most seeds.
    """
    near = all(abs(each["ReMoE: experts per token"] - 2) <= 0.2 for each in figures)
    wins = sum(each["ReMoE: error"] < each["top-2: error"] for each in figures)
    mean = np.mean([each["ReMoE: error"] - each["top-2: error"] for each in figures])
    return bool(near and mean < 0 and wins > len(figures) / 2)
