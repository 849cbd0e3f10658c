"""Inner products of tokens with a few vectors: what linear, cosine and prototype scores have in common.

Shape legend: T tokens, D width, E experts.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

# Below this many vectors, matrix libraries are faster when the tokens are the columns (measured on CPU: 8 vectors
# against 512 tokens of width 1,024 take 0.19 ms instead of 0.29 ms).
_FEW = 64


def project(x_TD: Tensor, vectors_ED: Tensor) -> Tensor:
    """`x V^T`, [T, E], in the type of x."""
    if vectors_ED.dtype != x_TD.dtype:
        vectors_ED = vectors_ED.to(x_TD.dtype)
    if vectors_ED.shape[0] < _FEW:
        return (vectors_ED @ x_TD.T).T
    return F.linear(x_TD, vectors_ED)
