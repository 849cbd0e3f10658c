"""A grouped matmul in Triton, for GPUs: ragged groups of any size, any width, and no word to the host.

The number of row blocks is bounded by what is known on the host, ceil(R / BLOCK) + E; a table made on the device says
which expert each block belongs to, and blocks beyond the last group return at once.

Shape legend: R rows grouped by expert, E experts, D and F widths, M row blocks.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

ROWS, COLUMNS, DEPTH = 64, 64, 32  # of one block


def matmul(rows_RD: Tensor, weight_EDF: Tensor, counts_E: Tensor) -> Tensor:
    """Each group of rows times its own expert's matrix, [R, F]; undefined for rows of nobody."""
    y_RF: Tensor = _Matmul.apply(rows_RD, weight_EDF, counts_E)  # type: ignore[no-untyped-call]  # torch's has no annotations
    return y_RF


class _Matmul(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_RD: Tensor, weight_EDF: Tensor, counts_E: Tensor) -> Tensor:
        ctx.save_for_backward(rows_RD, weight_EDF, counts_E)
        return _rows_times_matrices(rows_RD, weight_EDF, counts_E)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_RF: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        rows_RD, weight_EDF, counts_E = ctx.saved_tensors
        need_rows, need_weight, _ = ctx.needs_input_grad
        grad_RF = grad_RF.contiguous()
        grad_rows = _rows_times_matrices(grad_RF, weight_EDF.transpose(1, 2), counts_E) if need_rows else None
        grad_weight = _rows_times_rows(rows_RD, grad_RF, weight_EDF, counts_E) if need_weight else None
        return grad_rows, grad_weight, None


def _rows_times_matrices(rows_RD: Tensor, weight_EDF: Tensor, counts_E: Tensor) -> Tensor:
    (R, D), (E, _, F) = rows_RD.shape, weight_EDF.shape
    out_RF = rows_RD.new_empty(R, F)
    if not out_RF.numel():
        return out_RF
    blocks_E = (counts_E + ROWS - 1) // ROWS
    last_E = blocks_E.cumsum(0)
    block_M = torch.arange(triton.cdiv(R, ROWS) + E, device=rows_RD.device)
    expert_M = torch.searchsorted(last_E, block_M, right=True)
    of_M = expert_M.clamp_max(E - 1)
    end_E = counts_E.cumsum(0)
    start_M = (end_E - counts_E)[of_M] + (block_M - (last_E - blocks_E)[of_M]) * ROWS
    end_M = torch.where(expert_M < E, end_E[of_M], 0)
    _matmul_kernel[(len(block_M), triton.cdiv(F, COLUMNS))](
        rows_RD, weight_EDF, out_RF, of_M, start_M, end_M, D, F,
        *rows_RD.stride(), *weight_EDF.stride(), *out_RF.stride(), _precision(rows_RD), ROWS, COLUMNS, DEPTH,
    )  # fmt: skip
    return out_RF


def _rows_times_rows(rows_RD: Tensor, grad_RF: Tensor, weight_EDF: Tensor, counts_E: Tensor) -> Tensor:
    E, D, F = weight_EDF.shape
    out_EDF = torch.empty_like(weight_EDF, memory_format=torch.contiguous_format)
    end_E = counts_E.cumsum(0)
    _gradient_kernel[(E, triton.cdiv(D, ROWS), triton.cdiv(F, COLUMNS))](
        rows_RD, grad_RF, out_EDF, end_E - counts_E, end_E, D, F,
        *rows_RD.stride(), *grad_RF.stride(), *out_EDF.stride(), _precision(rows_RD), ROWS, COLUMNS, DEPTH,
    )  # fmt: skip
    return out_EDF


def _precision(rows_RD: Tensor) -> str:
    """Single precision means what it means in torch's own matmuls."""
    return "tf32" if torch.backends.cuda.matmul.allow_tf32 and rows_RD.is_cuda else "ieee"


@triton.jit  # type: ignore[untyped-decorator]  # neither have a kernel's arguments Python types
def _matmul_kernel(  # type: ignore[no-untyped-def]
    rows, weight, out, of_M, start_M, end_M, D, F, row_r, row_d, weight_e, weight_d, weight_f, out_r, out_f,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """One block of rows, all of one expert, times a block of its columns."""
    block = tl.program_id(0)
    start = tl.load(start_M + block)
    end = tl.load(end_M + block)
    if start >= end:
        return
    expert = tl.load(of_M + block)
    r = start + tl.arange(0, ROWS)
    f = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, D, DEPTH):
        d = first + tl.arange(0, DEPTH)
        mine = (r[:, None] < end) & (d[None, :] < D)
        x = tl.load(rows + r[:, None] * row_r + d[None, :] * row_d, mask=mine, other=0.0)
        theirs = (d[:, None] < D) & (f[None, :] < F)
        at = weight + expert * weight_e + d[:, None] * weight_d + f[None, :] * weight_f
        total += tl.dot(x, tl.load(at, mask=theirs, other=0.0), input_precision=PRECISION)
    at = out + r[:, None] * out_r + f[None, :] * out_f
    tl.store(at, total.to(out.dtype.element_ty), mask=(r[:, None] < end) & (f[None, :] < F))


@triton.jit  # type: ignore[untyped-decorator]
def _gradient_kernel(  # type: ignore[no-untyped-def]
    rows, grad, out, start_E, end_E, D, F, row_r, row_d, grad_r, grad_f, out_e, out_d, out_f,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """A block of one expert's matrix: its rows, turned, times the gradients of their products."""
    expert = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    f = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    end = tl.load(end_E + expert)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(tl.load(start_E + expert), end, DEPTH):
        r = first + tl.arange(0, DEPTH)
        mine = (r[None, :] < end) & (d[:, None] < D)
        x = tl.load(rows + r[None, :] * row_r + d[:, None] * row_d, mask=mine, other=0.0)
        theirs = (r[:, None] < end) & (f[None, :] < F)
        g = tl.load(grad + r[:, None] * grad_r + f[None, :] * grad_f, mask=theirs, other=0.0)
        total += tl.dot(x, g, input_precision=PRECISION)
    at = out + expert * out_e + d[:, None] * out_d + f[None, :] * out_f
    tl.store(at, total.to(out.dtype.element_ty), mask=(d[:, None] < D) & (f[None, :] < F))
