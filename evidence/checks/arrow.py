"""Arrow's and MBC's own claims: adapters that were trained apart are clustered as their tasks are; and routed by their
own directions, without training, they beat uniform mixing and random routing, near the oracle.

The ground is `apart.py`: tasks that come in clusters and whose inputs differ. Where only an instruction tells tasks
apart, as on the pocket models, the claim does not hold (docs/results/mix.md).
"""

from __future__ import annotations

import numpy as np
import torch

from evidence.checks.apart import CLUSTERS, TASKS, train_apart
from roster.library.cluster import cluster
from roster.router import Router
from roster.score import Prototype
from roster.score.prototype import top_input_direction
from roster.select import TopK


def check(seed: int) -> dict[str, float]:
    """Relative errors, and the share of tasks that MBC puts with their partner."""
    apart = train_apart(seed)
    factors = [each.experts.expert(0) for each in apart.experts]
    vectors_ED = torch.stack([top_input_direction(A.detach(), B.detach()) for A, B, _ in factors])
    groups = cluster(apart.library(), CLUSTERS)
    paired = sum(
        {f"task {2 * index}", f"task {2 * index + 1}"} <= set(group)
        for group in groups.values()
        for index in range(CLUSTERS)
    )
    return {
        "Arrow, top 1": apart.error(Router(Prototype(vectors_ED), TopK(1))),
        "Arrow, top 3": apart.error(Router(Prototype(vectors_ED), TopK(3))),
        **apart.bounds(seed),
        "MBC: clusters recovered": paired / CLUSTERS if len(groups) == TASKS // 2 else 0.0,
    }


def shown(figures: list[dict[str, float]]) -> bool:
    """At every seed below uniform, random and the best single expert; clusters recovered; on average the gap from
    uniform to the oracle closed by at least half."""
    rivals = ("uniform", "random", "best single")
    beats = all(each["Arrow, top 3"] < min(each[name] for name in rivals) for each in figures)
    mean = {name: np.mean([each[name] for each in figures]) for name in figures[0]}
    closed = (mean["uniform"] - mean["Arrow, top 3"]) / (mean["uniform"] - mean["oracle"])
    return bool(beats and closed >= 0.5 and mean["MBC: clusters recovered"] >= 0.9)
