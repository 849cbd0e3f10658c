"""SAM's own claim: more experts per token lower the loss although a token still visits one device.

Toy: 12 equally frequent clusters of tokens, each with a function of its own; 16 experts of 8 hidden units in 4 groups;
1, 2 or 4 of a group's experts serve a token. Switch-like top-4 of all 16 says what it costs to stay in one group.
"""

from __future__ import annotations

import numpy as np

from evidence.checks.choosing import trained
from evidence.checks.clusters import Clusters, mean_error, routes


def check(seed: int) -> dict[str, float]:
    """Errors, and devices per token."""
    figures = {}
    for k in (1, 2, 4):
        options = {"num_experts": 16, "groups": 4, "k": k}
        sam, ground = trained(Clusters, seed, "sam-switch-mixture", options, hidden=8 * k)
        figures[f"SAM, {k} experts: error"] = mean_error(sam, ground.draw)
        chosen_TE = routes(sam, ground.draw(1024))[0].chosen()
        devices_T = chosen_TE.view(-1, 4, 4).any(2).sum(1)
        figures[f"SAM, {k} experts: devices per token"] = float(devices_T.float().mean())
    free, ground = trained(Clusters, seed, "gshard-top2", {"num_experts": 16, "k": 4}, hidden=32)
    chosen_TE = routes(free, ground.draw(1024))[0].chosen()
    figures["top-4: error"] = mean_error(free, ground.draw)
    figures["top-4: devices per token"] = float(chosen_TE.view(-1, 4, 4).any(2).sum(1).float().mean())
    return figures


def shown(figures: list[dict[str, float]]) -> bool:
    """Every token visits exactly one device, and the mean error falls from 1 to 2 and from 2 to 4 experts."""
    one = all(each[f"SAM, {k} experts: devices per token"] == 1 for each in figures for k in (1, 2, 4))
    first, second, third = (np.mean([each[f"SAM, {k} experts: error"] for each in figures]) for k in (1, 2, 4))
    return bool(one and first > second > third)
