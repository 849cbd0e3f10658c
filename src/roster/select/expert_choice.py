"""Expert choice: experts pick tokens instead of tokens picking experts (Zhou et al., 2022, arXiv:2202.09368).

Whom an expert picks depends on the other tokens of the pool, later ones included: this is not causal, and over a whole
batch not batch invariant.

Shape legend: B batch rows, S tokens per row, T = B * S, E experts, G pools, N tokens per pool, C tokens per expert.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError, nearest
from roster.route import Route

Pool = Literal["batch", "row"]


class ExpertChoice(nn.Module):
    """Every expert takes the `per_token * N / E` tokens of a pool (rounded up) that want it most.

    `gate = softmax(scores)` over the experts is both what experts rank tokens by and the weight. A token may have any
    number of experts, from none to all; on average it has `per_token`. Padding is in no pool.

    Args:
        per_token: experts per token on average, above 0.
        pool: tokens that compete with each other: the whole "batch", or each "row" by itself.
    """

    reads_bias = False

    def __init__(self, per_token: float = 2.0, pool: Pool = "batch"):
        super().__init__()
        if not (per_token > 0 and math.isfinite(per_token)):
            raise RosterError(f"expert choice needs per_token above 0, not {per_token}")
        if pool not in get_args(Pool):
            raise RosterError(f"expert choice: unknown pool {pool!r}: {nearest(pool, get_args(Pool))}")
        self.per_token, self.pool = per_token, pool

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> Route:
        """A route with C pairs per expert and pool; places that padding leaves over belong to nobody."""
        T, E = scores_TE.shape
        G = 1 if self.pool == "batch" else context.batch
        N, device = T // G, scores_TE.device
        gate_TE = scores_TE.float().softmax(1)
        gate_GEN = gate_TE.view(G, N, E).transpose(1, 2)
        real_GN = torch.ones(G, N, dtype=torch.bool, device=device)
        if context.mask_T is not None:
            real_GN = context.mask_T.to(device).view(G, N)
        C = min(N, math.ceil(self.per_token * N / E))
        weight_GEC, place_GEC = gate_GEN.masked_fill(~real_GN[:, None], -1.0).topk(C, dim=2)
        # How many each expert takes follows from the real tokens alone; it stays on the device.
        count_G = (self.per_token * real_GN.sum(1).double() / E).ceil()
        taken_GEC = (torch.arange(C, device=device) < count_G[:, None, None]) & (weight_GEC >= 0)
        token_GEC = place_GEC + N * torch.arange(G, device=device)[:, None, None]
        expert_GEC = torch.where(taken_GEC, torch.arange(E, device=device)[:, None], E)
        weight_GEC = weight_GEC.masked_fill(~taken_GEC, 0.0)
        return Route(token_GEC.flatten(), expert_GEC.flatten(), weight_GEC.flatten(), T, E)
