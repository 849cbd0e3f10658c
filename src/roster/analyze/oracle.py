"""Oracle routes: every pattern of experts over the layers, enumerated, and the best loss that any router could reach.

For layers with a few choices each (Duo-LLM's skip, small and big). An item is whatever the caller measures a loss of;
where items see each other, as the tokens of a row do through attention, take rows as items.

Source: Alizadeh et al., 2024, "Duo-LLM", arXiv:2410.10846.

Shape legend: N items, L routers, P patterns.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from roster.errors import RosterError
from roster.moe.twin import rerouted
from roster.router import Router
from roster.select import Forced

MOST = 20_000


@torch.no_grad()
def enumerate_routes(model: Any, losses: Callable[[Any], Tensor], choices: int) -> tuple[Tensor, Tensor]:
    """Loss of every item under every pattern.

    Args:
        model: with L routers over `choices` experts each.
        losses: `model -> [N]`, the loss of each item; called once per pattern with a model that shares its tensors.
        choices: experts per router.

    Returns:
        (patterns [P, L], losses [P, N]).

    Raises:
        RosterError: more patterns than can be enumerated.
    """
    forced: list[Forced] = []

    def change(router: Router) -> Forced:
        forced.append(Forced())
        return forced[-1]

    twin = rerouted(model, change)
    if choices ** len(forced) > MOST:
        raise RosterError(f"{choices} choices in {len(forced)} layers are {choices ** len(forced)} patterns (> {MOST})")
    patterns = list(itertools.product(range(choices), repeat=len(forced)))
    found = []
    for pattern in patterns:
        for select, expert in zip(forced, pattern, strict=True):
            select.expert = expert
        found.append(losses(twin))
    return torch.tensor(patterns), torch.stack(found)


def frontier(loss_PN: Tensor, cost_P: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The least mean loss for every mean cost: no router over these patterns can be below it.

    Each item takes one of its patterns; between two corners of the frontier lie mixtures of both. Found by spending on
    the item whose loss falls fastest per unit of cost.

    Returns:
        (costs, losses) of the corners, costs rising and losses falling.
    """
    cost, loss = cost_P.double().numpy(), loss_PN.double().numpy()
    steps = [_hull(cost, loss[:, item]) for item in range(loss.shape[1])]
    start_cost, start_loss = (np.mean([first[each] for first, _ in steps]) for each in (0, 1))
    moves = np.concatenate([rest for _, rest in steps])
    moves = moves[np.argsort(moves[:, 1] / moves[:, 0], kind="stable")] / loss.shape[1]
    return start_cost + np.cumsum([0, *moves[:, 0]]), start_loss + np.cumsum([0, *moves[:, 1]])


def oracle_loss(loss_PN: Tensor, cost_P: Tensor, budget: float) -> float:
    """The least mean loss at a mean cost of at most `budget`; infinite where no pattern is that cheap."""
    costs, losses = frontier(loss_PN, cost_P)
    return float(np.interp(budget, costs, losses, left=np.inf))


def difficulty(loss_PN: Tensor, cost_P: Tensor) -> Tensor:
    """What more computation gains for each item, [N]: the loss of the cheapest pattern minus that of the best."""
    return loss_PN[cost_P.argmin()] - loss_PN.min(0).values


def _hull(cost_P: np.ndarray, loss_P: np.ndarray) -> tuple[tuple[float, float], np.ndarray]:
    """One item's lower convex hull: its cheapest corner, and the moves (more cost, less loss) along the others."""
    corners: list[tuple[float, float]] = []
    for cost, loss in sorted(zip(cost_P.tolist(), loss_P.tolist(), strict=True)):
        if corners and loss >= corners[-1][1]:
            continue
        while len(corners) > 1 and _slope(corners[-2], (cost, loss)) <= _slope(corners[-2], corners[-1]):
            corners.pop()
        corners.append((cost, loss))
    moves = np.diff(np.array(corners), axis=0).reshape(-1, 2)
    return corners[0], moves


def _slope(a: tuple[float, float], b: tuple[float, float]) -> float:
    return (b[1] - a[1]) / (b[0] - a[0])
