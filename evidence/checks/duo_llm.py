"""Duo-LLM's claim: a router over skipping, a small and a big block in every layer spends computation where it helps.

Three layers of skip, small or big. A linear function of every input is wanted; of the hard half, which a mark in them
gives away, also a function of the sizes of the features, of which no linear map sees anything. The router's loss is
held against the best that fixed patterns of the same mean cost reach: some mixture of two of the 27 for everybody.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from evidence.checks.blocks import Batch, Net, teacher, train
from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.analyze.oracle import enumerate_routes
from roster.lm.curve import curve
from roster.router import Router

FEATURES, OUT, HIDDEN, STEPS, LAYERS, SHRINK, TEST, PRICE = 12, 6, 48, 1500, 3, 4, 2000, 0.03


class Ground:
    """What is wanted of easy and of hard inputs."""

    def __init__(self) -> None:
        self.hard, self.linear_FO = teacher(FEATURES, OUT), torch.randn(FEATURES, OUT) * FEATURES**-0.5 * 0.5

    def draw(self, rows: int = 96, marked: bool = True) -> Batch:
        """Rows, half of them hard; unmarked ones do not say so."""
        x_BF, hard_B1 = torch.randn(rows, FEATURES), (torch.rand(rows, 1) < 0.5).float()
        y_BO = x_BF @ self.linear_FO + hard_B1 * 2 * self.hard(x_BF.abs())
        return torch.cat([x_BF, (2 * hard_B1 - 1) * marked], 1), y_BO, torch.zeros(rows, dtype=torch.long)


def _saved(way: str, told: float = 0.0) -> Contender:
    """How much lower the loss is than that of fixed patterns of the same cost, as a share of the latter."""

    def run(draw: Draw) -> float:
        torch.manual_seed(draw.ground)
        ground = Ground()
        torch.manual_seed(draw.luck + 1_000)
        options = {"shrink": SHRINK, "cost": PRICE}
        net = Net("duo-llm", options, width=FEATURES + 1, hidden=HIDDEN, out=OUT, depth=LAYERS)
        marked = way != "unmarked"
        train(net, lambda: ground.draw(marked=marked), draw.steps(STEPS))
        torch.manual_seed(draw.ground + 500_000)
        x_ND, y_NO, _ = ground.draw(TEST, marked)
        patterns_PL, loss_PN = enumerate_routes(net, lambda each: _losses(each, x_ND, y_NO), 3)
        cost_P = torch.tensor([0.0, 1 / SHRINK, 1.0])[patterns_PL].mean(1)
        fixed = curve(cost_P.double().numpy(), -loss_PN.mean(1).double().numpy())
        if way == "lot":  # routes of the trained router, dealt to other inputs; of some the right ones are told
            own_N = _losses(net, x_ND, y_NO)
            lucky_N = torch.rand(TEST) < told
            cost, loss = _spent(net, x_ND), float(torch.where(lucky_N, own_N, _dealt(net, x_ND, y_NO)).mean())
        else:
            cost, loss = _spent(net, x_ND), float(_losses(net, x_ND, y_NO).mean())
        return float(1 - loss / -np.asarray(fixed.quality_at(cost)))

    return run


@torch.no_grad()
def _dealt(net: nn.Module, x_ND: Tensor, y_NO: Tensor) -> Tensor:
    """Losses [N] when every input takes the route of another."""
    order_N = torch.randperm(len(x_ND))
    hooks = [
        module.score.register_forward_hook(lambda _m, _args, scores_NE: scores_NE[order_N])
        for module in net.modules()
        if isinstance(module, Router)
    ]
    losses_N = _losses(net, x_ND, y_NO)
    for hook in hooks:
        hook.remove()
    return losses_N


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


CHECKS = (
    make_check(
        slug="duo-llm",
        version=1,
        claim="A router over skip, small and big in every layer beats fixed patterns of the same cost.",
        ground="a linear function of every input, and a nonlinear one of the half that bears a mark; three layers, "
        "1,500 steps of 96 rows",
        budget="blocks of 48 and 12 units; compared with the best mixture of two fixed patterns of the same mean cost, "
        "chosen on the test",
        contenders={
            "router": ("trained at a price of 0.03 for the whole of computation", _saved("router")),
            "lot": ("the same routes, dealt to other inputs", _saved("lot")),
            "unmarked": ("a router that is not told which inputs are hard: without what it reads", _saved("unmarked")),
            "told": ("control: dealt to other inputs, but for a quarter of them", _saved("lot", told=0.25)),
        },
        pairs=Pairs("router", "lot", "unmarked", "told", "lot"),
        statistic=Statistic("loss saved against fixed patterns of the same cost, as a share", "higher", 0.05),
    ),
)
