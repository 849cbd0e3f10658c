"""Made-up tokens in clusters, each with a function of its own: the ground on which balance and expert layers are
checked.

Shape legend: B rows of one token each, D width, O outputs, N clusters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from evidence.checks.blocks import Batch, Net, error, teacher
from roster.context import Context
from roster.route import Route
from roster.router import Router

WIDTH, OUT = 16, 8


class Clusters:
    """Tokens around N centres; what is wanted of a token is its cluster's random function of it.

    Args:
        count: N.
        skew: cluster n is drawn with a chance proportional to `(n + 1) ** -skew`.
        common: weight of a further function that all clusters share.
    """

    def __init__(self, count: int, skew: float = 0.0, common: float = 0.0):
        self.chance_N = torch.arange(1, count + 1).float() ** -skew
        self.center_ND = torch.randn(count, WIDTH) * 2
        self.functions = [teacher(WIDTH, OUT) for _ in range(count)]
        self.common, self.weight = teacher(WIDTH, OUT), common

    def draw(self, rows: int = 256) -> Batch:
        """Inputs, outputs wanted, cluster of each row."""
        return self.of(torch.multinomial(self.chance_N, rows, replacement=True))

    def of(self, cluster_B: Tensor) -> Batch:
        """Rows of these clusters."""
        offset_BD = torch.randn(len(cluster_B), WIDTH)
        y_BO = self.weight * self.common(offset_BD)
        for cluster, function in enumerate(self.functions):
            y_BO = y_BO + (cluster_B == cluster)[:, None] * function(offset_BD)
        return self.center_ND[cluster_B] + offset_BD, y_BO, cluster_B


def net(recipe: str, options: Mapping[str, Any] | None = None, hidden: int = 16, **more: Any) -> Net:
    """One block and a read-out."""
    return Net(recipe, options, width=WIDTH, hidden=hidden, out=OUT, **more)


@torch.no_grad()
def routes(net: Net, batch: Batch) -> list[Route]:
    """The routes of all routers of a net."""
    seen: list[Any] = []
    modules = [module for module in net.modules() if isinstance(module, Router)]
    hooks = [module.register_forward_hook(lambda _m, _args, route: seen.append(route)) for module in modules]
    x_BD, _, task_B = batch
    net(x_BD, task_B, Context(len(x_BD), 1, task_ids_B=task_B))
    for hook in hooks:
        hook.remove()
    return seen


def excess(route: Route) -> float:
    """MaxVio: the load of the busiest expert relative to an even load, less one."""
    load_E = route.counts_E.float()
    return float(load_E.max() / load_E.mean() - 1)


def mean_error(net: Net, draw: Callable[[], Batch], batches: int = 8) -> float:
    """Relative error over fresh batches."""
    return sum(error(net, draw()) for _ in range(batches)) / batches
