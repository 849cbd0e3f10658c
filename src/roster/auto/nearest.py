"""The best of very many classes for a few prompts, without multiplying all of them exactly.

A decision among ten thousand adapters costs one read of their means. So they are read in 8 bits first, a quarter of the
bytes, and only those that can still be among the best are read again in float32. Which can is no guess: of unit vectors
z = z8 + e and m = m8 + f,

    |z.m - z8.m8|  <=  |e| |m| + |z8| |f|,

and both |e| and |f| are known once the vectors have been rounded. What comes out is what the whole product would say.

Shape legend: B batch rows, F features, M classes, K wanted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FROM_CLASSES = 1024
"""With fewer classes the whole product costs no more."""
_MOST = 127
_ROUNDING = 1e-5
"""What float32 itself may be off by, in either product."""


@dataclass(frozen=True)
class Nearest:
    """The means of many classes, ready for the search.

    Attributes:
        exact_MF: the means, a class a row.
        coarse_MF: the same in 8 bits.
        step_M: what one step of those is worth.
        error_M: how far each rounded mean is from the mean.
    """

    exact_MF: Tensor
    coarse_MF: Tensor
    step_M: Tensor
    error_M: Tensor

    @classmethod
    def of(cls, means_FM: Tensor) -> Nearest:
        """Rounds unit vectors that are columns."""
        exact_MF = means_FM.T.float().contiguous()
        coarse_MF, step_M, error_M = _rounded(exact_MF)
        return cls(exact_MF, coarse_MF, step_M, error_M)

    def best(self, z_BF: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """(cosines, classes), both [B, count], the best first, of all classes but the last.

        Args:
            z_BF: unit vectors.
            count: K.
        """
        coarse_BF, step_B, error_B = _rounded(z_BF)
        product_BM = torch._int_mm(coarse_BF, self.coarse_MF.T)
        found = []
        for row, z_F in enumerate(z_BF):
            rough_M = product_BM[row, :-1] * (self.step_M[:-1] * step_B[row])
            slack_M = self.error_M[:-1] * (1 + error_B[row]) + (error_B[row] + _ROUNDING)
            least = (rough_M - slack_M).topk(count).values[-1]
            # What is not a number is no bound.
            class_N = (~(rough_M + slack_M < least)).nonzero()[:, 0]
            cosine_N = self.exact_MF[class_N] @ z_F
            best_K, at_K = cosine_N.topk(count)
            found.append((best_K, class_N[at_K]))
        return torch.stack([best for best, _ in found]), torch.stack([class_K for _, class_K in found])

    def last(self, z_BF: Tensor) -> Tensor:
        """The cosine to the last class, [B]."""
        return z_BF @ self.exact_MF[-1]


def _rounded(rows_NF: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows in 8 bits, what a step is worth in each, and how far each is off."""
    step_N1 = rows_NF.abs().amax(1, keepdim=True).clamp_min(1e-12) / _MOST
    coarse_NF = (rows_NF / step_N1).round()
    error_N = torch.linalg.vector_norm(rows_NF - coarse_NF * step_N1, dim=1)
    return coarse_NF.to(torch.int8), step_N1[:, 0], error_N
