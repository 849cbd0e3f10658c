"""Low rank plus sparse: a matrix as the product of two thin ones and a few of its columns.

Equation: W = U V + S, U V the truncated SVD of rank r, S the columns of the rest W - U V with the largest norms.
Source: Li et al. 2024, MC-SMoE, arXiv 2310.01334, after LoSparse (arXiv 2306.11222): there U, V start from the SVD, S
is thinned by an average of |weight * gradient| over 50 epochs of distillation. Here all of it is one-shot, and the
result is written as one dense matrix, for no stock loader knows the factors: the values of the method, not its size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from roster.weights import Kernel


@dataclass
class LowRankSparse(Kernel):
    """The weighted mean of the operands, as far as rank and columns go.

    Args:
        weights: of the operands.
        rank: r.
        columns: share of columns that the sparse part keeps.
    """

    weights: tuple[float, ...]
    rank: int
    columns: float
    _shape: tuple[int, ...] = field(default=(), repr=False, init=False)

    def begin(self, shape: tuple[int, ...]) -> None:
        """Learns the shape."""
        self._shape = shape

    def unit(self, shape: tuple[int, ...]) -> int:
        """A whole matrix."""
        return math.prod(shape)

    def scratch(self, shape: tuple[int, ...]) -> int:
        """The matrix, its mean and the factors."""
        return 16 * math.prod(shape)

    def write(self, x: Sequence[Tensor], start: int) -> Tensor:
        """See the module."""
        total = sum(self.weights)
        mean = sum(weight / total * each for weight, each in zip(self.weights, x, strict=True))
        return low_rank_sparse(torch.as_tensor(mean).view(self._shape), self.rank, self.columns).flatten()


def low_rank_sparse(matrix: Tensor, rank: int, columns: float) -> Tensor:
    """The nearest matrix of a rank, plus the share of columns that it misses most."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    near: Tensor = (left[:, :rank] * values[:rank]) @ right[:rank]
    rest = matrix - near
    worst = rest.norm(dim=0).topk(round(columns * matrix.shape[1])).indices
    near[:, worst] += rest[:, worst]
    return near
