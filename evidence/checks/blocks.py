"""The smallest ground on which mixtures of feed-forward blocks can be compared: one or two routed blocks and made-up
tasks, built by the recipes themselves.

Shape legend: B rows, T = B rows of one token each, D width, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roster.context import Context
from roster.experts import SwiGLU
from roster.moe.layout import Place
from roster.recipes import find
from roster.train.schedule import advance

Batch = tuple[Tensor, Tensor, Tensor]
"""Inputs [B, D], outputs wanted [B, O], task of each row [B]."""


class Net(nn.Module):
    """Routed blocks in a residual stream, and a linear read-out.

    Args:
        recipe, options: of kind "moe".
        width, hidden, out: D, hidden units of a block that one row may use, O.
        tasks: names of the tasks.
        depth: how many blocks.
        dense: how many of them, from the first, are dense blocks instead.
    """

    def __init__(
        self,
        recipe: str,
        options: Mapping[str, Any] | None,
        *,
        width: int,
        hidden: int,
        out: int,
        tasks: Sequence[str] = (),
        depth: int = 1,
        dense: int = 0,
    ):
        super().__init__()
        layout = find(recipe)(options)

        def place(index: int) -> Place:
            def make(count: int, each: int) -> SwiGLU:
                return SwiGLU(count, width, each)

            return Place(f"block {index}", index, depth, width, hidden, make, tasks=tuple(tasks), recipe=recipe)

        plain = find("dense-active")()
        layouts = [plain if index < dense else layout for index in range(depth)]
        self.blocks = nn.ModuleList(each.block(place(index)) for index, each in enumerate(layouts))
        self.out = nn.Linear(width, out)

    def forward(self, x_BD: Tensor, task_B: Tensor | None = None, context: Context | None = None) -> Tensor:
        """Outputs [B, O]."""
        context = Context(len(x_BD), 1, task_ids_B=task_B) if context is None else context
        x_BSD = x_BD[:, None]
        for block in self.blocks:
            x_BSD = x_BSD + block(x_BSD, context)
        return self.out(x_BSD[:, 0])


def train(
    net: nn.Module,
    draw: Callable[[], Batch],
    steps: int,
    rate: float = 5e-3,
    parameters: Iterable[nn.Parameter] | None = None,
) -> nn.Module:
    """Adam on the mean squared error plus what the routers ask for, the rate falling to a tenth."""
    chosen = [p for p in (net.parameters() if parameters is None else parameters) if p.requires_grad]
    optimizer = torch.optim.Adam(chosen, lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, rate / 10)
    net.train()
    for step in range(steps):
        x_BD, y_BO, task_B = draw()
        context = Context(len(x_BD), 1, task_ids_B=task_B)
        loss = F.mse_loss(net(x_BD, task_B, context), y_BO) + sum(context.losses.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        advance(net, (step + 1) / steps)
    return net.eval()


@torch.no_grad()
def error(net: nn.Module, batch: Batch) -> float:
    """Mean squared error relative to the mean square of what is wanted."""
    x_BD, y_BO, task_B = batch
    return float(F.mse_loss(net(x_BD, task_B), y_BO) / y_BO.square().mean())


def teacher(width: int, out: int, units: int = 32) -> Callable[[Tensor], Tensor]:
    """A random function `[B, D] -> [B, O]` of two layers, for a network to learn."""
    first, second = torch.randn(width, units) * width**-0.5, torch.randn(units, out) * units**-0.5
    return lambda x_BD: torch.tanh(2 * x_BD @ first) @ second
