"""Experts held as whole numbers of 8 bits with a scale per row: approximate, in half of bfloat16's memory.

A row w of a matrix is held as q = round(w / s) with s = max |w| / 127, and stands for s * q: an entry is off by s / 2
at most. Weights alone are rounded, not what they are multiplied with. Few rows are multiplied with the bytes as they
are where torch has a kernel for it; else the matrix is written out in the model's type first.

Shape legend: N rows of the matrix, K columns, T rows that it is multiplied with.
"""

from __future__ import annotations

import torch
from torch import Tensor

MOST = 127
FEW = 16
"""T up to which the kernel for bytes is the faster way."""
_ROWS = 64
"""Converted at a time, so that what is between stays in the processor's cache."""


def held_bytes(rows: int, numel: int) -> int:
    """Of a matrix [N, K]: its numbers, up to where a scale may begin, and the scales in float32."""
    return _scales_at(numel) + 4 * rows


def _scales_at(numel: int) -> int:
    return -(-numel // 64) * 64


def numbers(share: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """(q [N, K] int8, s [N] float32) as they lie in a matrix's bytes."""
    numel, at = shape[0] * shape[1], _scales_at(shape[0] * shape[1])
    return share[:numel].view(torch.int8).view(shape), share[at : at + 4 * shape[0]].view(torch.float32)


def quantise(matrix_NK: Tensor, q_NK: Tensor, s_N: Tensor) -> None:
    """Rounds rows of a matrix into `q_NK` and `s_N`; a row of zeros has scale 0."""
    for start in range(0, len(matrix_NK), _ROWS):
        rows = slice(start, start + _ROWS)
        values = matrix_NK[rows].float()
        scale = values.abs().amax(dim=1) / MOST
        s_N[rows] = scale
        q_NK[rows] = (values * (1 / scale).nan_to_num(posinf=0.0)[:, None]).round_().to(torch.int8)


def restored(q_NK: Tensor, s_N: Tensor, dtype: torch.dtype) -> Tensor:
    """The matrix that the numbers stand for, in a type; the product is rounded once."""
    return (q_NK * s_N[:, None]).to(dtype)


def has_kernel(rows_TK: Tensor, dtype: torch.dtype) -> bool:
    """Whether rows are few, and of the kind that torch multiplies with bytes."""
    return rows_TK.device.type == "cpu" and dtype == torch.bfloat16 and 0 < len(rows_TK) <= FEW


def multiplied(rows_TK: Tensor, q_NK: Tensor, s_N: Tensor) -> Tensor:
    """rows @ matrix.T, [T, N], without the matrix: bfloat16 on a processor."""
    product: Tensor = torch.ops.aten._weight_int8pack_mm(rows_TK.contiguous(), q_NK, s_N.bfloat16())
    return product
