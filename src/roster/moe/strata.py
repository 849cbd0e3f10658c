"""Strata: experts in ordered groups that one token may pass one after the other (Xu et al., 2023, arXiv:2305.02176).

Shape legend: B batch rows, S tokens per row, T = B * S, D model width, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from roster.balance import LoadBalancing
from roster.context import Context
from roster.router import Router
from roster.score import Barred, Linear
from roster.select import TopK


class Strata(nn.Module):
    """One router per stratum; a token that stands there goes to an expert of that stratum or of a later one.

    Args:
        width: D.
        experts: `(rows_RD grouped by expert, counts_E) -> rows_RD`, those of all strata.
        stratum_of: the stratum of each expert, numbered from 0, ascending.
        balance: weight of the load-balancing loss of every stratum.
    """

    stratum_E: Tensor

    def __init__(self, width: int, experts: nn.Module, stratum_of: Sequence[int], balance: float):
        super().__init__()
        self.experts = experts
        self.register_buffer("stratum_E", torch.tensor(stratum_of))
        E, count = len(stratum_of), max(stratum_of) + 1
        self.routers = nn.ModuleList(
            Router(
                Barred(Linear(width, E), [each < stratum for each in stratum_of]),
                TopK(1, "all"),
                [LoadBalancing(balance)],
                site=f"stratum{stratum}" if count > 1 else "router",
            )
            for stratum in range(count)
        )
        self.norms = nn.ModuleList(nn.RMSNorm(width, eps=1e-6) for _ in range(count - 1))

    def forward(self, x_BSD: Tensor, context: Context) -> Tensor:
        """[B, S, D] -> [B, S, D]: what the visited experts add."""
        x_TD = x_BSD.reshape(-1, x_BSD.shape[-1])
        T = len(x_TD)
        stands_T = torch.zeros(T, dtype=torch.long, device=x_TD.device)
        real_T = torch.ones(T, dtype=torch.bool, device=x_TD.device) if context.mask_T is None else context.mask_T
        h_TD = x_TD
        for stratum, router in enumerate(self.routers):
            read_TD = h_TD if stratum == 0 else self.norms[stratum - 1](h_TD)
            here_T = real_T & (stands_T == stratum)
            # To this stratum's router, tokens that stand elsewhere are padding; the trace keeps the call's own mask.
            here = replace(context, mask_BS=here_T.view(context.batch, -1), recorder=None)
            route = router(read_TD, here)
            cast(Router, router).trace(route, context)
            h_TD = h_TD + route.through(self.experts, read_TD).to(h_TD.dtype)
            chosen_T = (route.chosen() * (self.stratum_E + 1)).sum(1)
            stands_T = torch.where(here_T, chosen_T, stands_T)
        return (h_TD - x_TD).view_as(x_BSD)
