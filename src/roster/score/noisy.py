"""Noisy score: in training, noise whose size is learned per token and expert (Shazeer et al., 2017, arXiv:1701.06538,
eq. 4).

Shape legend: T tokens, D width, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roster.context import Context
from roster.score.projection import project


class Noisy(nn.Module):
    """`scores = inner(x) + softplus(x N^T) * standard normal noise`; no noise at evaluation.

    In training the clean scores and the size of the noise are kept in `context.memory`, under `key` and the names in
    `PARTS`, for a loss on the load.

    Args:
        inner: another score.
        width, num_experts: D and E.
        key: different at every site.
    """

    PARTS = ("clean", "size")

    def __init__(self, inner: nn.Module, width: int, num_experts: int, key: str = "noisy"):
        super().__init__()
        self.inner, self.key = inner, key
        self.noise_ED = nn.Parameter(torch.zeros(num_experts, width))

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """Scores [T, E]."""
        scores_TE: Tensor = self.inner(x_TD, context)
        if not self.training:
            return scores_TE
        size_TE = F.softplus(project(x_TD, self.noise_ED)) + 1e-2
        for part, value_TE in zip(self.PARTS, (scores_TE, size_TE), strict=True):
            context.memory[f"{self.key}/{part}"] = value_TE
        drawn_TE: Tensor = scores_TE + torch.randn_like(scores_TE) * size_TE
        return drawn_TE
