"""A grouped matmul as one matmul per expert, for processors: every stack is taken apart once, and the gradient of the
stacked matrices is one tensor into which each expert writes its slice.

(Indexing a stacked parameter once per expert instead makes a gradient of full size per expert.)

Shape legend: R rows grouped by expert, E experts, D and F widths.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from roster.dispatch import memory


def matmul(rows_RD: Tensor, weight_EDF: Tensor, counts_E: Tensor) -> Tensor:
    """Each group of rows times its own expert's matrix, [R, F]; undefined for rows of nobody."""
    y_RF: Tensor = _Matmul.apply(rows_RD, weight_EDF, counts_E)  # type: ignore[no-untyped-call]  # torch's has no annotations
    return y_RF


class _Matmul(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_RD: Tensor, weight_EDF: Tensor, counts_E: Tensor) -> Any:
        ctx.save_for_backward(rows_RD, weight_EDF, counts_E)
        return torch.ops.roster.grouped_matmul(rows_RD, weight_EDF, counts_E)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_RF: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        rows_RD, weight_EDF, counts_E = ctx.saved_tensors
        need_rows, need_weight, _ = ctx.needs_input_grad
        grad_rows, grad_weight = torch.ops.roster.grouped_matmul_backward(
            grad_RF, rows_RD, weight_EDF, counts_E, need_rows, need_weight
        )
        return grad_rows if need_rows else None, grad_weight if need_weight else None, None


# Custom operations, so that a compiler sees one opaque call and no data-dependent shape.
@torch.library.custom_op("roster::grouped_matmul", mutates_args=())
def _forward(rows_RD: Tensor, weight_EDF: Tensor, counts_E: Tensor) -> Tensor:
    out_RF = rows_RD.new_empty(len(rows_RD), weight_EDF.shape[2])
    start = 0
    for weight_DF, size in zip(weight_EDF.unbind(), counts_E.tolist(), strict=True):
        if size:
            group = slice(start, start + size)
            torch.mm(rows_RD[group], weight_DF, out=out_RF[group])
            start += size
    return out_RF


@_forward.register_fake
def _(rows_RD: Tensor, weight_EDF: Tensor, counts_E: Tensor) -> Tensor:
    return rows_RD.new_empty(rows_RD.shape[0], weight_EDF.shape[2])


@torch.library.custom_op("roster::grouped_matmul_backward", mutates_args=())
def _backward(
    grad_RF: Tensor, rows_RD: Tensor, weight_EDF: Tensor, counts_E: Tensor, need_rows: bool, need_weight: bool
) -> tuple[Tensor, Tensor]:
    grad_rows = rows_RD.new_empty(rows_RD.shape if need_rows else 0)
    grad_weight = memory.empty(weight_EDF, *weight_EDF.shape if need_weight else (0,))
    into_E = grad_weight.unbind() if need_weight else [None] * len(weight_EDF)
    start = 0
    for weight_DF, into_DF, size in zip(weight_EDF.unbind(), into_E, counts_E.tolist(), strict=True):
        group = slice(start, start + size)
        if need_rows and size:
            torch.mm(grad_RF[group], weight_DF.T, out=grad_rows[group])
        if into_DF is not None and size:
            torch.mm(rows_RD[group].T, grad_RF[group], out=into_DF)
        elif into_DF is not None:
            into_DF.zero_()
        start += size
    if need_rows:
        grad_rows[start:] = 0.0
    return grad_rows, grad_weight


@_backward.register_fake
def _(
    grad_RF: Tensor, rows_RD: Tensor, weight_EDF: Tensor, counts_E: Tensor, need_rows: bool, need_weight: bool
) -> tuple[Tensor, Tensor]:
    return (
        rows_RD.new_empty(rows_RD.shape if need_rows else 0),
        weight_EDF.new_empty(weight_EDF.shape if need_weight else 0),
    )
