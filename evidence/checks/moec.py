"""MoEC's own claim: with little data more experts overfit; clusters with dropout inside them go on improving.

Toy: 8 clusters of tokens, 768 of them to learn from, noise on what is wanted; 4, 16 and 64 experts, top-2. Plain is the
same recipe with one cluster, without dropout and cluster loss.
"""

from __future__ import annotations

import numpy as np
import torch

from evidence.checks.blocks import Batch, train
from evidence.checks.clusters import Clusters, mean_error, net, routes

SIZES, STEPS, ROWS = (4, 16, 64), 500, 768
PLAIN = {"clusters": 1, "dropout": 0.0, "cluster": 0.0}
CLUSTERED = {"clusters": 2, "dropout": 0.5, "cluster": 0.05}


def check(seed: int) -> dict[str, float]:
    """Relative errors on fresh tokens, and the routing probabilities' variance within and between clusters."""
    figures = {}
    for name, options in (("plain", PLAIN), ("MoEC", CLUSTERED)):
        for size in SIZES:
            torch.manual_seed(seed)
            field = Clusters(8)
            x_BD, y_BO, kind_B = field.draw(ROWS)
            y_BO = y_BO + 0.3 * y_BO.std() * torch.randn_like(y_BO)

            def draw(x=x_BD, y=y_BO, kind=kind_B) -> Batch:
                row = torch.randint(0, ROWS, (256,))
                return x[row], y[row], kind[row]

            contender = net("moec", {"num_experts": size, **options})
            train(contender, draw, STEPS)
            figures[f"{name}, {size} experts"] = mean_error(contender, field.draw)
    loss = contender.blocks[0].router.balance[0]
    within_T, between_T = loss.parts(routes(contender, field.draw())[0].scores_TE.softmax(1))
    figures["variance within clusters"], figures["variance between"] = float(within_T.mean()), float(between_T.mean())
    return figures


def shown(figures: list[dict[str, float]]) -> bool:
    """On average: plain is worse with 64 experts than with fewer; MoEC is best with 64 and there better than plain; and
    the variance within clusters is below that between them.
    """
    means = {name: np.mean([each[name] for each in figures]) for name in figures[0]}
    plain, clustered = ([means[f"{name}, {size} experts"] for size in SIZES] for name in ("plain", "MoEC"))
    overfits, improves = plain[-1] > min(plain), clustered[-1] == min(clustered)
    alike = means["variance within clusters"] < means["variance between"]
    return bool(overfits and improves and clustered[-1] < plain[-1] and alike)
