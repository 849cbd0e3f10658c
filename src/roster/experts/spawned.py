"""Experts that begin as one: after a share of the training it is copied to all, each copy damaged in its own way (Nie
et al., 2021, EvoMoE, arXiv:2112.14397).

Shape legend: T tokens, R rows grouped by expert, E experts, D model width.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roster.errors import RosterError
from roster.route import Route


class Spawned(nn.Module):
    """All rows go to one expert until `at`; then every expert becomes a copy of it with weights set to zero at random.

    Args:
        inner: experts whose parameters all have E as their first axis.
        at: share of the training after which copies are made; 0 for experts that are themselves from the start.
        drop: share of a copy's weights that are set to zero.
    """

    expert_seed: Tensor
    spawned: Tensor

    def __init__(self, inner: nn.Module, at: float, drop: float):
        super().__init__()
        if not 0.0 <= at <= 1.0:
            raise RosterError(f"experts are spawned within the training, not at={at}")
        if not 0.0 <= drop < 1.0:
            raise RosterError(f"spawned experts need 0 <= drop < 1, not {drop}")
        self.inner, self.at, self.drop = inner, at, drop
        self.num_experts = cast(int, inner.num_experts)
        self.register_buffer("expert_seed", torch.tensor(0))
        self.register_buffer("spawned", torch.tensor(at == 0.0))

    def forward(self, rows_RD: Tensor, counts_E: Tensor | Route) -> Tensor:
        """Rows out for rows in. Called with a route instead of counts: see `serve`."""
        if isinstance(counts_E, Route):
            return self.serve(rows_RD, counts_E)
        y_RD: Tensor = self.inner(rows_RD, self._counts(counts_E))
        return y_RD

    def serve(self, x_TD: Tensor, route: Route) -> Tensor:
        """What the experts make of the tokens that a route sends them, summed per token, [T, D]."""
        token_R, weight_R, counts_E = route.pairs()
        end_E, row_R = self._counts(counts_E).cumsum(0), torch.arange(len(token_R), device=token_R.device)
        expert_R = torch.searchsorted(end_E, row_R, right=True)  # nobody's rows lie behind the last group
        return Route(token_R, expert_R, weight_R, route.num_tokens, self.num_experts).through(self.inner, x_TD)

    def _counts(self, counts_E: Tensor) -> Tensor:
        """Rows that each expert really gets."""
        all_E = F.one_hot(self.expert_seed, self.num_experts) * counts_E.sum()
        return torch.where(self.spawned, counts_E, all_E)

    @torch.no_grad()
    def advance(self, progress: float) -> None:
        """Makes the copies, once."""
        if bool(self.spawned) or progress < self.at:
            return
        for weights in self.inner.parameters():
            kept = torch.rand_like(weights) >= self.drop
            weights.copy_(weights[self.expert_seed] * kept)
        self.spawned.fill_(True)
