"""Prototype score: the size of a token's component along one fixed direction per expert (Arrow).

Shape legend: T tokens, D width, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.score.projection import project


class Prototype(nn.Module):
    """`scores = |x V^T|`: a singular direction has no sign, so neither has the score.

    Args:
        vectors_ED: one direction per expert, usually of length 1; zero for an expert that is absent.
    """

    vectors_ED: Tensor

    def __init__(self, vectors_ED: Tensor):
        super().__init__()
        self.register_buffer("vectors_ED", vectors_ED.clone())

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """Scores [T, E], not negative."""
        return self.finish(project(x_TD, self.vectors_ED))

    @property
    def directions_ED(self) -> Tensor:
        """What the tokens are multiplied by."""
        return self.vectors_ED

    def finish(self, product_TE: Tensor) -> Tensor:
        """Scores from the inner products with `directions_ED`."""
        return product_TE.abs()


def top_input_direction(A_RD: Tensor, B_OR: Tensor) -> Tensor:
    """The input direction that the update B A answers most: its first right singular vector, [D].

    Exact, and never forms the O x D product: with A^T = Q_A R_A and B = Q_B R_B it is Q_A times the first right
    singular vector of the small matrix R_B R_A^T. The sign is the SVD's and means nothing. An update that is all
    zero answers nothing, and its direction is zero.

    Shape legend: R rank, O out_features.
    """
    Q_DR, R_A = torch.linalg.qr(A_RD.double().T)
    _, R_B = torch.linalg.qr(B_OR.double())
    _, size_R, right_RR = torch.linalg.svd(R_B @ R_A.T)
    direction_D = Q_DR @ right_RR[0]
    top_D: Tensor = (direction_D * (size_R[0] > 0)).to(A_RD.dtype)
    return top_D
