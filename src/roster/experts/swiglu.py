"""SwiGLU feed-forward experts (Shazeer, 2020, arXiv:2002.05202), all of one width.

Shape legend: R rows grouped by expert, E experts, D model width, F expert width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roster.dispatch import grouped_matmul


class SwiGLU(nn.Module):
    """`(silu(x G_e) * (x U_e)) V_e` for the rows of expert e.

    Args:
        num_experts: E.
        width: D.
        hidden: F.
    """

    def __init__(self, num_experts: int, width: int, hidden: int):
        super().__init__()
        self.num_experts = num_experts
        self.gate_EDF = nn.Parameter(torch.randn(num_experts, width, hidden) * width**-0.5)
        self.up_EDF = nn.Parameter(torch.randn(num_experts, width, hidden) * width**-0.5)
        self.down_EFD = nn.Parameter(torch.randn(num_experts, hidden, width) * hidden**-0.5)

    def forward(self, rows_RD: Tensor, counts_E: Tensor) -> Tensor:
        """Rows out for rows in; rows behind the last group belong to nobody and come back undefined."""
        gate_RF = grouped_matmul(rows_RD, self.gate_EDF, counts_E)
        up_RF = grouped_matmul(rows_RD, self.up_EDF, counts_E)
        return grouped_matmul(F.silu(gate_RF) * up_RF, self.down_EFD, counts_E)
