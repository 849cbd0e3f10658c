"""Assorted: experts that differ in size or kind, among them experts that do nothing, behind one call.

Shape legend: R rows grouped by expert, E experts, D model width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Assorted(nn.Module):
    """Each group of rows meets its own module.

    Args:
        parts: one per expert: experts of which there is exactly one, or None for an expert that adds nothing.
    """

    def __init__(self, parts: Sequence[nn.Module | None]):
        super().__init__()
        self.num_experts = len(parts)
        self.parts = nn.ModuleDict({str(index): part for index, part in enumerate(parts) if part is not None})

    def forward(self, rows_RD: Tensor, counts_E: Tensor) -> Tensor:
        """Rows out for rows in; zero for rows of experts that do nothing and for rows of nobody."""
        sizes = counts_E.tolist()
        groups = rows_RD.split([*sizes, len(rows_RD) - sum(sizes)])
        out = [
            self.parts[str(index)](group, counts_E[index : index + 1]) if str(index) in self.parts else group * 0.0
            for index, group in enumerate(groups)
        ]
        return torch.cat(out)
