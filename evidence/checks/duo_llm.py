"""Duo-LLM: at every budget the enumerated oracle is at most at the trained router's loss, and the gain from more
computation finds planted hard inputs.

Toy: three layers of skip, small or big. A linear function of every input is wanted; of the hard half, which a mark in
them gives away, also a function of the sizes of the features, of which no linear map sees anything. All 27 patterns
are enumerated for each test input. Routers are trained at three prices of computation; a budget is what one of them
spends. This is the second try: in the first the linear function was wanted of easy inputs only, so that the read-out
could not serve both halves and easy inputs gained from computation too.
"""

from __future__ import annotations

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from evidence.checks.blocks import Batch, Net, teacher, train
from roster.analyze.oracle import difficulty, enumerate_routes, oracle_loss
from roster.router import Router

FEATURES, OUT, HIDDEN, STEPS, LAYERS, SHRINK, TEST = 12, 6, 48, 2000, 3, 4, 1500
PRICES = (0.01, 0.03, 0.1)


def check(seed: int) -> dict[str, float]:
    """Losses and costs of the routers, the oracle's loss at the same costs, and how well hard inputs are found."""
    torch.manual_seed(seed)
    hard, linear_FO = teacher(FEATURES, OUT), torch.randn(FEATURES, OUT) * FEATURES**-0.5 * 0.5

    def draw(rows: int = 96) -> Batch:
        x_BF, hard_B1 = torch.randn(rows, FEATURES), (torch.rand(rows, 1) < 0.5).float()
        y_BO = x_BF @ linear_FO + hard_B1 * 2 * hard(x_BF.abs())
        return torch.cat([x_BF, 2 * hard_B1 - 1], 1), y_BO, torch.zeros(rows, dtype=torch.long)

    x_ND, y_NO, _ = draw(TEST)
    figures = {}
    for price in PRICES:
        torch.manual_seed(seed + 100)
        options = {"shrink": SHRINK, "cost": price}
        net = Net("duo-llm", options, width=FEATURES + 1, hidden=HIDDEN, out=OUT, depth=LAYERS)
        train(net, draw, STEPS)
        patterns_PL, loss_PN = enumerate_routes(net, lambda each: _losses(each, x_ND, y_NO), 3)
        cost_P = torch.tensor([0.0, 1 / SHRINK, 1.0])[patterns_PL].mean(1)
        cost, loss = _spent(net, x_ND), float(_losses(net, x_ND, y_NO).mean())
        figures |= {
            f"price {price}: cost of the router": cost,
            f"price {price}: loss of the router": loss,
            f"price {price}: loss of the oracle at this cost": oracle_loss(loss_PN, cost_P, cost),
            f"price {price}: area under ROC of hard inputs": roc_auc_score(
                x_ND[:, -1] > 0, difficulty(loss_PN, cost_P)
            ),
        }
    return figures


def shown(figures: list[dict[str, float]]) -> bool:
    """At every seed and price the oracle's loss is at most the router's, and hard inputs are found with an area of at
    least 0.9.
    """
    return all(
        each[f"price {price}: loss of the oracle at this cost"] <= each[f"price {price}: loss of the router"] + 1e-6
        and each[f"price {price}: area under ROC of hard inputs"] >= 0.9
        for each in figures
        for price in PRICES
    )


@torch.no_grad()
def _losses(net: nn.Module, x_ND: Tensor, y_NO: Tensor) -> Tensor:
    return (net(x_ND) - y_NO).square().mean(1)


@torch.no_grad()
def _spent(net: nn.Module, x_ND: Tensor) -> float:
    """Mean share of the big blocks' width that the router uses."""
    spent: list[float] = []
    width_E = torch.tensor([0.0, 1 / SHRINK, 1.0])
    hooks = [
        module.register_forward_hook(lambda _, args, route: spent.append(float((route.dense() @ width_E).mean())))
        for module in net.modules()
        if isinstance(module, Router)
    ]
    net(x_ND)
    for hook in hooks:
        hook.remove()
    return sum(spent) / len(spent)
