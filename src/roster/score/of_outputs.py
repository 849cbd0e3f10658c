"""Score of outputs: each expert is judged by what it has computed (Pan et al., 2025, Finedeep, arXiv:2502.12928).

Shape legend: T tokens, D width, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.context import Context


class OfOutputs(nn.Module):
    """`scores_e = w_e . output_e`.

    Args:
        width: D.
        num_experts: E.
        std: standard deviation of the initial weights.
    """

    def __init__(self, width: int, num_experts: int, std: float = 0.02):
        super().__init__()
        self.weight_ED = nn.Parameter(torch.randn(num_experts, width) * std)

    def forward(self, output_TX: Tensor, context: Context) -> Tensor:
        """Scores [T, E] from the outputs of all experts, [T, E * D]."""
        output_TED = output_TX.unflatten(1, self.weight_ED.shape)
        scores_TE: Tensor = (output_TED * self.weight_ED).sum(2)
        return scores_TE
