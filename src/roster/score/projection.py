"""Inner products of tokens with a few vectors: what linear, cosine and prototype scores have in common.

Shape legend: T tokens, D width, E experts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from roster.dispatch import memory

# Below this many vectors, matrix libraries are faster when the tokens are the columns (measured on CPU: 8 vectors
# against 512 tokens of width 1,024 take 0.19 ms instead of 0.29 ms).
_FEW = 64


def project(x_TD: Tensor, vectors_ED: Tensor) -> Tensor:
    """`x V^T`, [T, E], in the type of x."""
    if vectors_ED.dtype != x_TD.dtype:
        vectors_ED = vectors_ED.to(x_TD.dtype)
    wants_gradient = x_TD.requires_grad and torch.is_grad_enabled()
    # A compiler plans memory by itself, and autocast would change the types.
    if wants_gradient and not torch.compiler.is_compiling() and not torch.is_autocast_enabled(x_TD.device.type):
        scores_TE: Tensor = _Project.apply(x_TD, vectors_ED)  # type: ignore[no-untyped-call]  # torch's has no annotations
        return scores_TE
    return _product(x_TD, vectors_ED)


def _product(x_TD: Tensor, vectors_ED: Tensor) -> Tensor:
    if vectors_ED.shape[0] < _FEW:
        return (vectors_ED @ x_TD.T).T
    return F.linear(x_TD, vectors_ED)


class _Project(torch.autograd.Function):
    """Puts the tokens' gradient, the one large tensor here, into kept memory: 1 % of a top-1 layer's training step."""

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, vectors_ED: Tensor) -> Tensor:
        ctx.save_for_backward(x_TD, vectors_ED)
        return _product(x_TD, vectors_ED)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TE: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x_TD, vectors_ED = ctx.saved_tensors
        need_x, need_vectors = ctx.needs_input_grad
        grad_TD = torch.mm(grad_TE, vectors_ED, out=memory.empty(x_TD, *x_TD.shape)) if need_x else None
        return grad_TD, grad_TE.T @ x_TD if need_vectors else None
