"""A dense feed-forward block that stays as it is, and routed adapters that add to it: beside it, in several rounds
(Tang et al., 2025, GraphMoE, arXiv:2501.07890), or behind it (Lee et al., 2024, BECoTTA, arXiv:2402.08712).

Shape legend: B batch rows, S tokens per row, T = B * S, D model width, M adapters.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.experts import LowRankExperts
from roster.route import Route
from roster.router import Router


class BesideDense(nn.Module):
    """`y = F(x) + what the adapters add`, F the block, which does not train.

    Args:
        dense: F, as experts of which there is one; `start="dense"` makes it the model's own block.
        router: of the adapters; traces show its routes.
        adapters: M of them.
    """

    def __init__(self, dense: nn.Module, router: Router, adapters: nn.Module):
        super().__init__()
        self.dense, self.router, self.adapters = dense.requires_grad_(False), router, adapters

    @property
    def from_dense(self) -> nn.Module:
        """What begins as the model's own block; adapters do not."""
        return self.dense

    def forward(self, x_BSD: Tensor, context: Context) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        x_TD = x_BSD.reshape(-1, x_BSD.shape[-1])
        nobody_else_T1 = torch.zeros(len(x_TD), 1, dtype=torch.long, device=x_TD.device)
        always = Route.slots(nobody_else_T1, torch.ones_like(nobody_else_T1, dtype=x_TD.dtype), 1, full=True)
        return self.add(x_TD, always.through(self.dense, x_TD), context).view_as(x_BSD)

    def add(self, x_TD: Tensor, y_TD: Tensor, context: Context) -> Tensor:
        """The block's output y with what the adapters add to it."""
        raise NotImplementedError(f"{type(self).__name__} does not say where its adapters stand")


class Rethinking(BesideDense):
    """Routes, asks and thinks again: `h_0 = x; h_{t+1} = GRU(h_t, sum_i g_i(h_t) A_i(h_t))`; what the adapters say of
    the last h is added. The router is the node that all experts' messages pass through.

    Args:
        dense, router: as of `BesideDense`.
        adapters: low-rank maps from D to D.
        rounds: how often tokens are routed; with one there is no GRU.
    """

    def __init__(self, dense: nn.Module, router: Router, adapters: LowRankExperts, rounds: int):
        super().__init__(dense, router, adapters)
        width = adapters.A_RI.shape[1]
        self.rounds, self.cell = rounds, nn.GRUCell(width, width) if rounds > 1 else None

    def add(self, x_TD: Tensor, y_TD: Tensor, context: Context) -> Tensor:
        """See above."""
        h_TD = x_TD
        if self.cell is not None:
            unseen = replace(context, recorder=None)  # a trace shows the last round
            for _ in range(self.rounds - 1):
                message_TD = self.adapters(h_TD, torch.zeros_like(h_TD), self.router(h_TD, unseen))
                h_TD = self.cell(message_TD, h_TD)
        added_TD: Tensor = self.adapters(h_TD, y_TD, self.router(h_TD, context))
        return added_TD


class Behind(BesideDense):
    """`y = f + sum_i g_i(f) A_i(f)` with f = F(x): adapters that read what the block says."""

    def add(self, x_TD: Tensor, y_TD: Tensor, context: Context) -> Tensor:
        """See above."""
        added_TD: Tensor = self.router(y_TD, context).through(self.adapters, y_TD)
        return y_TD + added_TD
