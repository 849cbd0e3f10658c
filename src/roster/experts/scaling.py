"""Vector experts: each rescales a layer's output elementwise, as (IA)3 does (Liu et al., 2022, arXiv:2205.05638).
Mixed by a route they are MoV (Zadouri et al., 2023, arXiv:2309.05444).

Shape legend: T tokens, E experts, O out_features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.route import AnyRoute


class ScalingExperts(nn.Module):
    """`y * (sum_e g_e l_e)`; with all vectors at one and gates that sum to one, y is unchanged.

    Args:
        num_experts: E.
        width: O.
        std: spread of the vectors around one at the start, so that experts can come apart.
        trains: whether the vectors get gradients.
    """

    def __init__(self, num_experts: int, width: int, std: float = 0.0, trains: bool = True):
        super().__init__()
        vectors_EO = 1.0 + torch.randn(num_experts, width) * std
        self.vectors_EO = nn.Parameter(vectors_EO, requires_grad=trains)

    @property
    def num_experts(self) -> int:
        """E."""
        return self.vectors_EO.shape[0]

    def forward(self, x_TI: Tensor, y_TO: Tensor, route: AnyRoute) -> Tensor:
        """Rescales the base layer's output [T, O]; a token that nobody serves keeps its own."""
        gate_TE = route.dense().to(device=y_TO.device, dtype=y_TO.dtype)
        scale_TO = gate_TE @ self.vectors_EO.to(y_TO.dtype)
        nobody_T1 = ~route.chosen().any(1, keepdim=True)
        return y_TO * torch.where(nobody_T1.to(y_TO.device), 1.0, scale_TO)
