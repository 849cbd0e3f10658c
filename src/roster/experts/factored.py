"""SwiGLU experts whose gate matrix is a product of two thin ones, the first of which a score may read as well (Lv et
al., 2025, "Autonomy-of-Experts Models", arXiv:2501.13074).

Shape legend: R rows grouped by expert, E experts, D model width, P rank of the gate, F expert width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roster.dispatch import grouped_matmul


class FactoredSwiGLU(nn.Module):
    """`(silu(x P_e^T G_e) * (x U_e)) V_e` for the rows of expert e.

    Args:
        projection_EPD: the thin first matrices; the very parameter that the score reads, so that an expert's answer to
            "does this suit me?" is the beginning of its work.
        hidden: F.
    """

    def __init__(self, projection_EPD: nn.Parameter, hidden: int):
        super().__init__()
        num_experts, rank, width = projection_EPD.shape
        self.num_experts = num_experts
        self.projection_EPD = projection_EPD
        self.gate_EPF = nn.Parameter(torch.randn(num_experts, rank, hidden) * rank**-0.5)
        self.up_EDF = nn.Parameter(torch.randn(num_experts, width, hidden) * width**-0.5)
        self.down_EFD = nn.Parameter(torch.randn(num_experts, hidden, width) * hidden**-0.5)

    def forward(self, rows_RD: Tensor, counts_E: Tensor) -> Tensor:
        """Rows out for rows in; rows behind the last group belong to nobody and come back undefined."""
        # Contiguous: the grouped matmul wants rows of the second matrix one after the other.
        thin_RP = grouped_matmul(rows_RD, self.projection_EPD.transpose(1, 2).contiguous(), counts_E)
        gate_RF = grouped_matmul(thin_RP, self.gate_EPF, counts_E)
        up_RF = grouped_matmul(rows_RD, self.up_EDF, counts_E)
        return grouped_matmul(F.silu(gate_RF) * up_RF, self.down_EFD, counts_E)
