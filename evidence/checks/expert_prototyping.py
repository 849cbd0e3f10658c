"""Expert prototyping's own claim: k top-1 choices in k groups lose nothing against the top k of all experts, without
a sort and without a balance loss.

Toy: 12 equally frequent clusters of tokens, each with a function of its own; 8 experts, k = 2.
"""

from __future__ import annotations

import numpy as np

from evidence.checks.choosing import error_of, trained
from evidence.checks.clusters import Clusters, mean_error, routes


def check(seed: int) -> dict[str, float]:
    """Errors, and the share of tokens with exactly one expert of each group."""
    prototypes, ground = trained(Clusters, seed, "expert-prototyping")
    chosen_TE = routes(prototypes, ground.draw(1024))[0].chosen()
    return {
        "k top-1: error": mean_error(prototypes, ground.draw),
        "top-2: error": error_of(Clusters, seed, "gshard-top2"),
        "one expert of each group": float((chosen_TE.view(-1, 2, 4).sum(2) == 1).all(1).float().mean()),
    }


def shown(figures: list[dict[str, float]]) -> bool:
    """Every token has one expert of each group, and the mean error is at most that of top-2."""
    exact = all(each["one expert of each group"] == 1 for each in figures)
    return bool(exact and np.mean([each["k top-1: error"] - each["top-2: error"] for each in figures]) <= 0)
