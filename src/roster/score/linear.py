"""Linear score: one learned direction per expert. The gate of most mixtures since Shazeer et al., 2017
(arXiv:1701.06538).

Shape legend: T tokens, D width, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.score.projection import project


class Linear(nn.Module):
    """`scores = x W^T`.

    Args:
        width: D.
        num_experts: E.
        std: standard deviation of the initial weights; 0 starts with equal scores for all experts.
    """

    def __init__(self, width: int, num_experts: int, std: float = 0.02):
        super().__init__()
        self.weight_ED = nn.Parameter(torch.randn(num_experts, width) * std)

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """Scores [T, E]."""
        return self.finish(project(x_TD, self.weight_ED))

    @property
    def directions_ED(self) -> Tensor:
        """What the tokens are multiplied by."""
        return self.weight_ED

    def finish(self, product_TE: Tensor) -> Tensor:
        """Scores from the inner products with `directions_ED`."""
        return product_TE
