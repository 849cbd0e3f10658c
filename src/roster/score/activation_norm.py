"""Activation-norm score: an expert is suited to a token when its own first projection answers it strongly
(Lv et al., 2025, "Autonomy-of-Experts Models", arXiv:2501.13074).

Shape legend: T tokens, D width, E experts, R rank of each expert's first projection.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.context import Context


class ActivationNorm(nn.Module):
    """`scores_e = ||P_e x||_2`.

    Args:
        projection_ERD: the experts' first projections; a parameter when `trains`, else a buffer.
    """

    projection_ERD: Tensor

    def __init__(self, projection_ERD: Tensor, trains: bool = False):
        super().__init__()
        if trains:
            self.projection_ERD = nn.Parameter(projection_ERD.clone())
        else:
            self.register_buffer("projection_ERD", projection_ERD.clone())

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """Scores [T, E], not negative."""
        E, R, D = self.projection_ERD.shape
        h_TER = (x_TD @ self.projection_ERD.view(E * R, D).T.to(x_TD.dtype)).view(-1, E, R)
        scores_TE: Tensor = torch.linalg.vector_norm(h_TER, dim=-1)
        return scores_TE
