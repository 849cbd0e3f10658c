"""Per-rank score: one learned direction for every rank of every expert (Zhao et al., 2025, SMoRA, arXiv:2501.15103).

Shape legend: T tokens, D width, E experts, R ranks of an expert, padded to those of the largest.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.score.projection import project


class PerRank(nn.Module):
    """`scores = x W^T`; minus infinity for ranks that an expert does not have.

    Args:
        width: D.
        ranks: of each expert; 0 where it has no update.
        std: standard deviation of the initial weights.
    """

    present_ER: Tensor

    def __init__(self, width: int, ranks: Sequence[int], std: float = 0.02):
        super().__init__()
        self.weight_ERD = nn.Parameter(torch.randn(len(ranks), max(ranks), width) * std)
        self.ragged = min(ranks) < max(ranks)
        present_ER = torch.arange(max(ranks)) < torch.tensor(list(ranks))[:, None]
        self.register_buffer("present_ER", present_ER, persistent=False)

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """Scores [T, E * R], grouped by expert."""
        scores_TX = project(x_TD, self.weight_ERD.flatten(0, 1))
        return scores_TX.masked_fill(~self.present_ER.flatten(), -torch.inf) if self.ragged else scores_TX
