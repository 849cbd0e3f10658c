"""AdaMoE's own claim: null experts hold the cost where it is set, spend it where it counts, and lose nothing by it.

Toy: 12 clusters of tokens; nothing is wanted of the tokens of one half (fillers), a random function of the others.
AdaMoE chooses 4 of 8 real and 8 null experts, the baseline 2 of the 8: the real experts are the same.

Second settings: first the block stood in a residual stream, where even zero had to be computed, as the read-out saw the
token; fillers did not get fewer experts then, and the error was above that of top-2. Now nothing goes past the block.
"""

from __future__ import annotations

import numpy as np
import torch

from evidence.checks.choosing import Direct, EasyAndHard, error_of, trained
from evidence.checks.clusters import mean_error, routes

TARGET = 4 * 8 / (8 + 8)


@torch.no_grad()
def check(seed: int) -> dict[str, float]:
    """Errors and real experts per token."""
    with torch.enable_grad():
        ada, ground = trained(EasyAndHard, seed, "adamoe", make=Direct)
        top2 = error_of(EasyAndHard, seed, "gshard-top2", make=Direct)
    batch = ground.draw(4096)
    real_T = routes(ada, batch)[0].chosen()[:, :8].sum(1).float()
    filler_T = batch[2] < ground.hard_from
    return {
        "AdaMoE: error": mean_error(ada, ground.draw),
        "top-2: error": top2,
        "real experts per token": float(real_T.mean()),
        "real experts per filler": float(real_T[filler_T].mean()),
        "real experts per other token": float(real_T[~filler_T].mean()),
    }


def shown(figures: list[dict[str, float]]) -> bool:
    """The real experts per token are within a tenth of k N / (N + m) = 2 at every seed; at every seed fillers get
    fewer than other tokens; and the mean error is at most that of top-2.
    """
    means = {name: np.mean([each[name] for each in figures]) for name in figures[0]}
    met = all(abs(each["real experts per token"] - TARGET) <= 0.1 * TARGET for each in figures)
    spent = all(each["real experts per filler"] < each["real experts per other token"] for each in figures)
    return bool(met and spent and means["AdaMoE: error"] <= means["top-2: error"])
