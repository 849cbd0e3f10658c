"""Top ranks: every rank of every LoRA is an expert, and the best k of all serve a token (Zhao et al., 2025, SMoRA,
arXiv:2501.15103).

Shape legend: T tokens, E experts, R ranks of an expert, padded to those of the largest, K ranks chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError
from roster.select.parts import PartRoute


class TopRanks(nn.Module):
    """The k ranks with the highest `gate + bias`, weighted by it over their sum, times the ranks of their expert.

    The last factor undoes the `1 / r` in a LoRA's scale: all ranks of one expert and no others, evenly weighted, are
    that expert. The bias moves against the load after every optimiser step: `rate * sign(mean load - load)`.

    Args:
        k: ranks per token, at least 1; with fewer ranks than k, all serve.
        ranks: of each expert; 0 where it has no update.
        gate: "sigmoid" or "softmax" of the scores.
        rate: how far the bias moves per step; 0 leaves it at zero.
    """

    reads_bias = False
    bias_ER: Tensor
    load_ER: Tensor
    rank_E1: Tensor
    absent_ER: Tensor

    def __init__(self, k: int, ranks: Sequence[int], gate: Literal["sigmoid", "softmax"] = "sigmoid", rate: float = 0):
        super().__init__()
        if k < 1:
            raise RosterError(f"top ranks needs k >= 1, not {k}")
        if gate not in ("sigmoid", "softmax"):
            raise RosterError(f"top ranks: the gate must be 'sigmoid' or 'softmax', not {gate!r}")
        self.k, self.gate, self.rate = min(k, sum(ranks)), gate, rate
        self.rank, self.ragged = max(ranks), min(ranks) < max(ranks)
        rank_E1 = torch.tensor(list(ranks))[:, None]
        self.register_buffer("bias_ER", torch.zeros(len(ranks), max(ranks)))
        self.register_buffer("load_ER", torch.zeros(len(ranks), max(ranks)), persistent=False)
        self.register_buffer("rank_E1", rank_E1, persistent=False)
        self.register_buffer("absent_ER", torch.arange(max(ranks)) >= rank_E1, persistent=False)

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> PartRoute:
        """A route with a weight per rank, from scores [T, E * R]."""
        scores_TX = scores_TE.float()
        rank_TK, weight_TK = self._biased(scores_TX) if self.rate else self._plain(scores_TX)
        if not self.ragged:
            weight_TK = weight_TK * self.rank
        weight_TER = torch.zeros_like(scores_TX).scatter_(1, rank_TK, weight_TK).view(-1, *self.bias_ER.shape)
        if self.training and self.rate:
            self._count(rank_TK, context.mask_T)
        return PartRoute(weight_TER * self.rank_E1 if self.ragged else weight_TER)

    def _biased(self, scores_TX: Tensor) -> tuple[Tensor, Tensor]:
        """(the ranks chosen, their shares), both [T, K]."""
        gate_TX = scores_TX.sigmoid() if self.gate == "sigmoid" else scores_TX.softmax(1)
        gate_TX = gate_TX + self.bias_ER.flatten()
        if self.ragged:
            gate_TX = gate_TX.masked_fill(self.absent_ER.flatten(), -torch.inf)
        top_TK, rank_TK = gate_TX.topk(self.k, dim=1, sorted=False)
        return rank_TK, top_TK / top_TK.sum(1, keepdim=True).clamp_min(1e-12)

    def _plain(self, scores_TX: Tensor) -> tuple[Tensor, Tensor]:
        """The same without a bias: gates keep the order of scores, so that those of the chosen are enough."""
        if self.ragged:
            scores_TX = scores_TX.masked_fill(self.absent_ER.flatten(), -torch.inf)
        top_TK, rank_TK = scores_TX.topk(self.k, dim=1, sorted=False)
        if self.gate == "softmax":  # over all, over the sum of the chosen
            return rank_TK, top_TK.softmax(1)
        top_TK = top_TK.sigmoid()
        return rank_TK, top_TK / top_TK.sum(1, keepdim=True).clamp_min(1e-12)

    @torch.no_grad()
    def _count(self, rank_TK: Tensor, mask_T: Tensor | None) -> None:
        rank_R = (rank_TK if mask_T is None else rank_TK[mask_T.to(rank_TK.device)]).flatten()
        self.load_ER += torch.bincount(rank_R, minlength=self.load_ER.numel()).view_as(self.load_ER).to(self.load_ER)

    @torch.no_grad()
    def advance(self, progress: float) -> None:
        """Moves the bias and forgets the load."""
        mean = self.load_ER.sum() / (~self.absent_ER).sum()
        self.bias_ER += (self.rate * torch.sign(mean - self.load_ER)).masked_fill(self.absent_ER, 0.0)
        self.load_ER.zero_()
