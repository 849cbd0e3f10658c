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
    if not fits_grouped_mm(rows_RD, weight_EDF):
        return _reference(rows_RD, weight_EDF, counts_E)
    return F.grouped_mm(rows_RD, weight_EDF, offs=counts_E.cumsum(0).to(torch.int32))


def fits_grouped_mm(rows_RD: Tensor, weight_EDF: Tensor) -> bool:
    """Whether torch's grouped matmul takes these: it wants every row to begin at a multiple of 16 bytes."""
    widths = (rows_RD.shape[1], weight_EDF.shape[1], weight_EDF.shape[2])
    return all(width * rows_RD.element_size() % 16 == 0 for width in widths)


def _reference(rows_RD: Tensor, weight_EDF: Tensor, counts_E: Tensor) -> Tensor:
    """The same, one expert after the other; zero for rows of nobody."""
    groups = rows_RD[: int(counts_E.sum())].split(counts_E.tolist())
    out = [rows_D @ weight_DF for rows_D, weight_DF in zip(groups, weight_EDF, strict=True)]
    out.append(rows_RD.new_zeros(len(rows_RD) - sum(len(each) for each in out), weight_EDF.shape[2]))
    return torch.cat(out)
