"""Codebook score: how near is a token to each expert's code? The nearest code points at the expert, as in vector
quantisation (Do et al., 2024, VQMoE, arXiv:2411.19402; van den Oord et al., 2017, arXiv:1711.00937).

Shape legend: T tokens, D width, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError


class Codebook(nn.Module):
    """`scores_e = -mean over D of (x - v_e)^2`.

    A selection that takes the best with weight one passes no gradient to the codes: `balance.Quantization` trains
    them.

    Args:
        width: D.
        num_experts: E, the number of codes.
        commitment: how much of the gradient of a score goes to the token, relative to what goes to the code.
    """

    def __init__(self, width: int, num_experts: int, commitment: float = 0.25):
        super().__init__()
        if not commitment >= 0:
            raise RosterError(f"a codebook score needs commitment >= 0, not {commitment}")
        self.commitment = commitment
        # Codes begin near zero, where the direction of a token decides. With codes as long as tokens, the first that
        # wins moves to the mean of all tokens and is from then on the nearest to every one.
        self.codes_ED = nn.Parameter((torch.rand(num_experts, width) * 2 - 1) / num_experts)

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """Scores [T, E], not positive."""
        x_TD = x_TD.float()
        x_TD = x_TD.detach() + self.commitment * (x_TD - x_TD.detach())
        codes_ED = self.codes_ED.float()
        distance_TE = x_TD.square().sum(1)[:, None] - 2 * x_TD @ codes_ED.T + codes_ED.square().sum(1)
        return -distance_TE / x_TD.shape[1]
