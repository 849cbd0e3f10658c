"""torch's own grouped matmul as a back end.

Shape legend: R rows grouped by expert, E experts, D and F widths.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from roster.errors import RosterError


def fits_grouped_mm(rows_RD: Tensor, weight_EDF: Tensor) -> bool:
    """Whether torch's grouped matmul takes these: it wants every row to begin at a multiple of 16 bytes."""
    widths = (rows_RD.shape[1], weight_EDF.shape[1], weight_EDF.shape[2])
    return all(width * rows_RD.element_size() % 16 == 0 for width in widths)


def matmul(rows_RD: Tensor, weight_EDF: Tensor, counts_E: Tensor) -> Tensor:
    """Each group of rows times its own expert's matrix, [R, F]; undefined for rows of nobody.

    Raises:
        RosterError: a row of the rows or of a matrix does not begin at a multiple of 16 bytes.
    """
    if not fits_grouped_mm(rows_RD, weight_EDF):
        D, F_ = weight_EDF.shape[1:]
        raise RosterError(
            f"dispatch 'grouped_mm' wants rows of a multiple of 16 bytes; widths {D} and {F_} in {rows_RD.dtype} "
            "are none: use('blocks') takes any width"
        )
    return F.grouped_mm(rows_RD, weight_EDF, offs=counts_E.cumsum(0).to(torch.int32))
