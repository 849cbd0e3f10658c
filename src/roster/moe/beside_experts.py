"""Small adapters beside a mixture that stays as it is: routed by themselves, by the mixture's own router, or always on
(Liu et al., 2024, PERFT, arXiv:2411.08212).

Shape legend: B batch rows, S tokens per row, T = B * S, D model width, E experts, M adapters.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.experts import LowRankExperts
from roster.router import Router


class BesideExperts(nn.Module):
    """`y = sum_e g_e E_e(x) + sum_j h_j D_j(x)`, D_j a low-rank map of the block's input, h another router's weights or
    the mixture's own.

    Args:
        router, experts: the mixture; nothing of it trains.
        adapters: M low-rank maps from D to D.
        own: their router; None where the mixture's route is theirs, too.
    """

    def __init__(self, router: Router, experts: nn.Module, adapters: LowRankExperts, own: Router | None):
        super().__init__()
        self.router, self.experts = router.requires_grad_(False), experts.requires_grad_(False)
        self.adapters, self.own = adapters, own

    def forward(self, x_BSD: Tensor, context: Context) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        x_TD = x_BSD.reshape(-1, x_BSD.shape[-1])
        route = self.router(x_TD, context)
        y_TD = route.through(self.experts, x_TD)
        if self.own is not None:
            # Traces show the mixture's experts; of adapters there may be another number.
            route = self.own(x_TD, replace(context, recorder=None))
        beside: Tensor = self.adapters(x_TD, y_TD, route)
        return beside.view_as(x_BSD)


def fresh_adapters(count: int, width: int, rank: int, alpha: float) -> LowRankExperts:
    """M adapters as LoRA begins: A random, B zero, so that nothing is changed yet."""
    factors = []
    for _ in range(count):
        A_rD = nn.init.kaiming_uniform_(torch.empty(rank, width), a=math.sqrt(5))
        factors.append((A_rD, torch.zeros(width, rank), alpha / rank))
    return LowRankExperts(factors, trains=True)
