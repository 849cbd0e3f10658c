"""Attention score: every expert's score depends on how well the others suit the token (Wu et al., 2024, "Yuan
2.0-M32: Mixture of Experts with Attention Router", arXiv:2405.17976).

Shape legend: T tokens, D width, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.score.projection import project


class Attention(nn.Module):
    """`scores = softmax(q k^T) v` with `q, k, v = W_q x, W_k x, W_v x`, one number per expert each.

    Args:
        width: D.
        num_experts: E.
    """

    def __init__(self, width: int, num_experts: int):
        super().__init__()
        # Smaller weights would make the attention uniform, and with it all scores equal.
        std = width**-0.5
        self.query_ED = nn.Parameter(torch.randn(num_experts, width) * std)
        self.key_ED = nn.Parameter(torch.randn(num_experts, width) * std)
        self.value_ED = nn.Parameter(torch.randn(num_experts, width) * std)

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """Scores [T, E]; each is a weighted mean of the values."""
        q_TE, k_TE, v_TE = (project(x_TD, weight).float() for weight in (self.query_ED, self.key_ED, self.value_ED))
        attention_TEE = (q_TE[:, :, None] * k_TE[:, None, :]).softmax(2)
        return (attention_TEE @ v_TE[:, :, None])[:, :, 0]
