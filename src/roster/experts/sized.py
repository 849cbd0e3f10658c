"""SwiGLU experts of different sizes, side by side in three matrices.

Shape legend: R rows grouped by expert, E experts, D model width, H hidden units of all experts together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roster.errors import RosterError


class SizedSwiGLU(nn.Module):
    """`(silu(x G_e) * (x U_e)) V_e`, where G_e, U_e and V_e are the expert's own run of columns and rows.

    Args:
        width: D.
        sizes: hidden units of each expert.
    """

    def __init__(self, width: int, sizes: Sequence[int]):
        super().__init__()
        if min(sizes) < 1:
            raise RosterError(f"experts of different sizes need at least one hidden unit each: {list(sizes)}")
        self.num_experts, self.sizes = len(sizes), tuple(sizes)
        self.gate_DH = nn.Parameter(torch.randn(width, sum(sizes)) * width**-0.5)
        self.up_DH = nn.Parameter(torch.randn(width, sum(sizes)) * width**-0.5)
        scale_H1 = torch.cat([torch.full((size, 1), size**-0.5) for size in sizes])
        self.down_HD = nn.Parameter(torch.randn(sum(sizes), width) * scale_H1)

    def forward(self, rows_RD: Tensor, counts_E: Tensor) -> Tensor:
        """Rows out for rows in; zero for rows behind the last group, which belong to nobody."""
        groups = rows_RD[: int(counts_E.sum())].split(counts_E.tolist())
        # Split once: indexing a parameter per expert would make a full-size gradient each time.
        parts = zip(
            groups,
            self.gate_DH.split(self.sizes, dim=1),
            self.up_DH.split(self.sizes, dim=1),
            self.down_HD.split(self.sizes),
            strict=True,
        )
        out = [(F.silu(rows @ gate) * (rows @ up)) @ down for rows, gate, up, down in parts]
        nobody = len(rows_RD) - sum(len(each) for each in out)
        return torch.cat([*out, rows_RD.new_zeros(nobody, rows_RD.shape[1])])
