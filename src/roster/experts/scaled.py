"""LoRA experts whose outputs are scaled, feature by feature, by weights that are learned while the experts stay as they
are (Frohmann et al., 2023, ScaLearn, arXiv:2310.01217).

Shape legend: T tokens, E experts, r rank of one expert, R all ranks together, I in_features, O out_features.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roster.experts.low_rank import LowRankExperts
from roster.route import AnyRoute


class ScaledExperts(LowRankExperts):
    """`y += sum_e g_e w_e * (scale_e B_e A_e x)`, w_e a vector over the features of the layer's output.

    Args:
        factors: as of `LowRankExperts`; they do not train.
        mean, std: of the initial weights.
        dropout: share of the weights that are zero in a training call, the others being as much larger.
    """

    def __init__(
        self,
        factors: Sequence[tuple[Tensor, Tensor, float] | None],
        mean: float,
        std: float = 1e-3,
        dropout: float = 0.0,
    ):
        super().__init__(factors)
        self.dropout = dropout
        self.weight_EO = nn.Parameter(mean + std * torch.randn(len(self.ranks), self.B_RO.shape[1]))

    def forward(self, x_TI: Tensor, y_TO: Tensor, route: AnyRoute) -> Tensor:
        """Adds the experts' update to the base layer's output [T, O]."""
        dtype = self.computes_in(x_TI)
        gate_TE = route.dense().to(device=x_TI.device, dtype=dtype)
        middle_TR = F.linear(x_TI.to(dtype), self.A_RI.to(dtype)) * gate_TE[:, self.owner_R]
        weight_EO = F.dropout(self.weight_EO, self.dropout, self.training)
        return (y_TO + middle_TR @ self._scaled(self.B_RO.to(dtype), weight_EO.to(dtype))).to(y_TO.dtype)

    def merged(self, route: AnyRoute) -> tuple[Tensor, Tensor, float]:
        """(A [R, I], B [O, R], scale) that do what the experts do under a route of one token."""
        gate_R = route.dense()[0].to(self.B_RO)[self.owner_R]
        return self.A_RI.detach(), (self._scaled(self.B_RO, self.weight_EO) * gate_R[:, None]).T, 1.0

    def _scaled(self, B_RO: Tensor, weight_EO: Tensor) -> Tensor:
        scaled_EO = weight_EO * self.scale_E.to(weight_EO.dtype)[:, None]
        return B_RO * scaled_EO[self.owner_R].to(B_RO.dtype)
