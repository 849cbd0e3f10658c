"""The smallest ground on which routed LoRA experts can be compared: one frozen linear layer and made-up tasks.

A task maps inputs by the frozen layer plus an update of low rank; experts must find the updates. Everything is the
library's own parts: a `Router`, `LowRankExperts`, a `Context`.

Shape legend: B rows of a batch, S tokens per row, T = B * S, I in_features, O out_features, E experts, r rank.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roster.context import Context
from roster.experts import LowRankExperts
from roster.router import Router

WIDTH = 16
Batch = tuple[Tensor, Tensor, Tensor]
"""Inputs [B, S, I], the updates' outputs wanted [B, S, O], task of each row [B]."""


class Layer(nn.Module):
    """A routed update of a frozen layer; the frozen part cancels out of the loss and is left out."""

    def __init__(self, router: Router, num_experts: int, rank: int, average: str = "updates"):
        super().__init__()
        self.router = router
        factors = [(torch.randn(rank, WIDTH) * WIDTH**-0.5, torch.randn(WIDTH, rank) * 0.1, 1.0)] * num_experts
        factors = [(torch.randn_like(A) * WIDTH**-0.5, torch.randn_like(B) * 0.1, scale) for A, B, scale in factors]
        self.experts = LowRankExperts(factors, average, trains=True)

    def forward(self, x_BSI: Tensor, task_B: Tensor) -> Tensor:
        """The update's output [B, S, O]."""
        B, S, _ = x_BSI.shape
        context = Context(B, S, task_ids_B=task_B)
        x_TI = x_BSI.reshape(B * S, -1)
        route = self.router(x_TI, context)
        return self.experts(x_TI, torch.zeros(B * S, WIDTH), route).view(B, S, WIDTH)


def train(layer: Layer, draw: Callable[[], Batch], steps: int, rate: float = 1e-2, router_rate: float = 1e-2) -> None:
    """Adam on the mean squared error."""
    groups = [
        {"params": list(layer.experts.parameters()), "lr": rate},
        {"params": [p for p in layer.router.parameters() if p.requires_grad], "lr": router_rate},
    ]
    optimizer = torch.optim.Adam([group for group in groups if group["params"]])
    layer.train()
    for _ in range(steps):
        x_BSI, y_BSO, task_B = draw()
        optimizer.zero_grad()
        F.mse_loss(layer(x_BSI, task_B), y_BSO).backward()
        optimizer.step()
    layer.eval()


@torch.no_grad()
def error(layer: Layer, batch: Batch) -> float:
    """Mean squared error relative to the variance of what is wanted."""
    x_BSI, y_BSO, task_B = batch
    return float(F.mse_loss(layer(x_BSI, task_B), y_BSO) / y_BSO.square().mean())
