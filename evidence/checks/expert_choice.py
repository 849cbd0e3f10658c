"""Expert choice's own claim: it learns more than twice as fast as top-1 and top-2 routing with a balance loss.

Toy: 12 clusters of tokens with frequencies that fall as 1 / sqrt(n); 16 hidden units per token on average for all.
"""

from __future__ import annotations

import numpy as np

from evidence.checks.choosing import curve, experts_per_token, share_to_reach, trained
from evidence.checks.clusters import Clusters, routes


def check(seed: int) -> dict[str, float]:
    """Errors, steps to the others' errors, the busiest expert's load relative to the least busy one's."""
    curves = {slug: curve(seed, slug) for slug in ("switch-transformer", "gshard-top2", "expert-choice")}
    chosen, ground = trained(Clusters, seed, "expert-choice")
    count_T, _ = experts_per_token(chosen, ground)
    load_E = routes(chosen, ground.draw(4096))[0].counts_E
    return {
        **{f"{slug}: error": float(errors[-1]) for slug, errors in curves.items()},
        "steps to the error of top-1": share_to_reach(curves["expert-choice"], float(curves["switch-transformer"][-1])),
        "steps to the error of top-2": share_to_reach(curves["expert-choice"], float(curves["gshard-top2"][-1])),
        "most load / least load": float(load_E.max() / load_E.min()),
        "experts per token, deviation": float(count_T.std()),
    }


def shown(figures: list[dict[str, float]]) -> bool:
    """Loads are equal, the number of experts varies between tokens, and on average it takes at most half of the steps
    to reach the last error of top-1 and of top-2.
    """
    even = all(each["most load / least load"] == 1 and each["experts per token, deviation"] > 0 for each in figures)
    names = ("steps to the error of top-1", "steps to the error of top-2")
    return bool(even and all(np.mean([each[name] for each in figures]) <= 0.5 for name in names))
