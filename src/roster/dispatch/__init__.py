"""Dispatch: how rows that are grouped by expert meet their experts' weights.

Shape legend: R rows grouped by expert, E experts, D and F widths.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["grouped_matmul"]


def grouped_matmul(rows_RD: Tensor, weight_EDF: Tensor, counts_E: Tensor) -> Tensor:
    """Multiplies each group of rows by its own expert's matrix.

    Args:
        rows_RD: rows sorted by expert; rows behind the last group belong to nobody.
        weight_EDF: one matrix per expert.
        counts_E: rows per expert.

    Returns:
        [R, F]; undefined for rows of nobody.
    """
    return F.grouped_mm(rows_RD, weight_EDF, offs=counts_E.cumsum(0).to(torch.int32))


def _reference(rows_RD: Tensor, weight_EDF: Tensor, counts_E: Tensor) -> Tensor:
    """The same, one expert after the other; zero for rows of nobody."""
    out_RF = rows_RD.new_zeros(rows_RD.shape[0], weight_EDF.shape[2])
    start = 0
    for count, weight_DF in zip(counts_E, weight_EDF, strict=True):
        stop = start + int(count)
        out_RF[start:stop] = rows_RD[start:stop] @ weight_DF
        start = stop
    return out_RF
