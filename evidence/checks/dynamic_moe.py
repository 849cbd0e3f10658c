"""Dynamic MoE's own claim: hard tokens get more experts, and with no more experts than top-2 the loss is no higher.

Toy: 12 clusters of tokens; of the tokens of one half nothing is wanted, of the others a random function. All
contenders have 8 experts of 8 hidden units.

Second settings: first p was 0.4 and the entropy loss weighed 0.01, with which hardly a token had a second expert, and
the block stood in a residual stream, where even zero had to be computed. Now p is 0.8, the weight 0.001, and nothing
goes past the block.
"""

from __future__ import annotations

import numpy as np

from evidence.checks.choosing import Direct, EasyAndHard, error_of, experts_per_token, trained
from evidence.checks.clusters import mean_error


def check(seed: int) -> dict[str, float]:
    """Errors and experts per token."""
    dynamic, ground = trained(EasyAndHard, seed, "dynamic-moe-top-p", {"p": 0.8, "entropy": 0.001}, make=Direct)
    count_T, cluster_T = experts_per_token(dynamic, ground)
    hard_T = cluster_T >= ground.hard_from
    flat, ground = trained(EasyAndHard, seed, "dynamic-moe-top-p", {"p": 0.8, "entropy": 0.0}, make=Direct)
    return {
        "top-p: error": mean_error(dynamic, ground.draw),
        "top-2: error": error_of(EasyAndHard, seed, "gshard-top2", make=Direct),
        "experts per easy token": float(count_T[~hard_T].mean()),
        "experts per hard token": float(count_T[hard_T].mean()),
        "experts per token": float(count_T.mean()),
        "experts per token without the entropy loss": float(experts_per_token(flat, ground)[0].mean()),
    }


def shown(figures: list[dict[str, float]]) -> bool:
    """At most seeds hard tokens get more experts than easy ones; on average there are at most 2 per token, fewer than
    without the entropy loss, and the error is at most that of top-2.
    """
    means = {name: np.mean([each[name] for each in figures]) for name in figures[0]}
    harder = sum(each["experts per hard token"] > each["experts per easy token"] for each in figures)
    fewer = means["experts per token"] < means["experts per token without the entropy loss"]
    equal = means["experts per token"] <= 2 and means["top-p: error"] <= means["top-2: error"]
    return bool(harder > len(figures) / 2 and fewer and equal)
