"""Adaptive L1: a price on gates that rises until as few experts serve as wanted (Wang et al., 2024, ReMoE,
arXiv:2412.14711).

Shape legend: T tokens, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.balance.mean import counted, over_tokens
from roster.context import Context
from roster.errors import RosterError
from roster.processes import total
from roster.route import AnyRoute


class AdaptiveL1(nn.Module):
    """`price * sum_e f_e * mean over tokens of gate_e`, with `f_e = E / k * share of tokens that expert e serves`.

    After every optimiser step the price is multiplied by `rate` when more than k experts served a token on average, and
    divided by it when fewer did. The factor f makes busy experts dearer, which balances the load; where all are equally
    busy with k experts per token it is 1.

    Args:
        k: experts per token wanted on average.
        num_experts: E.
        start: the price before the first step.
        rate: how fast it moves, above 1.
    """

    price: Tensor
    pairs: Tensor
    tokens: Tensor

    def __init__(self, k: float, num_experts: int, start: float = 1e-8, rate: float = 1.2):
        super().__init__()
        if not 0 < k <= num_experts:
            raise RosterError(f"adaptive L1: k={k} experts per token are wanted, but there are {num_experts}")
        if not (start > 0 and rate > 1):
            raise RosterError(f"adaptive L1 needs start > 0 and rate > 1, not {start} and {rate}")
        self.k, self.num_experts, self.rate = k, num_experts, rate
        self.register_buffer("price", torch.tensor(float(start)))
        self.register_buffer("pairs", torch.zeros(()), persistent=False)
        self.register_buffer("tokens", torch.zeros(()), persistent=False)

    def forward(self, route: AnyRoute, context: Context) -> Tensor:
        """A scalar; in training the experts per token are counted too."""
        gate_TE = route.dense()
        share_E = over_tokens(route.chosen().to(gate_TE), context)
        if self.training:
            self.pairs += total(route.counts_E.sum(), context.processes)
            self.tokens += counted(context, len(gate_TE), gate_TE.device).to(self.tokens)
        dear_E = self.num_experts / self.k * share_E
        # A copy: the price moves in place before some backward passes, and recomputation may ask for it again.
        return self.price.clone() * (dear_E * over_tokens(gate_TE, context)).sum()

    @torch.no_grad()
    def advance(self, progress: float) -> None:
        """Moves the price and forgets the counts."""
        surplus = self.pairs - self.k * self.tokens
        self.price *= self.rate ** torch.sign(surplus)
        self.pairs.zero_()
        self.tokens.zero_()
