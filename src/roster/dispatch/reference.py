"""The plain back end: one expert after the other, in operations that autograd and counters of arithmetic understand.

Shape legend: R rows grouped by expert, E experts, D and F widths.
"""

from __future__ import annotations

import torch
from torch import Tensor

from roster.dispatch.activation import activate
from roster.dispatch.weights import Weights


def matmul(rows_RD: Tensor, weight_EDF: Tensor, counts_E: Tensor) -> Tensor:
    """Each group of rows times its own expert's matrix, [R, F]; zero for rows of nobody."""
    groups = rows_RD[: int(counts_E.sum())].split(counts_E.tolist())
    out = [rows_D @ weight_DF for rows_D, weight_DF in zip(groups, weight_EDF, strict=True)]
    out.append(rows_RD.new_zeros(len(rows_RD) - sum(len(each) for each in out), weight_EDF.shape[2]))
    return torch.cat(out)


def feed_forward(rows_RD: Tensor, counts_E: Tensor, weights: Weights) -> Tensor:
    """Each group of rows through its own expert, [R, D]; zero for rows of nobody."""
    sizes = counts_E.tolist()
    groups = rows_RD.split([*sizes, len(rows_RD) - sum(sizes)])
    out = []
    for rows_ND, expert in zip(groups[:-1], weights.per_expert(), strict=True):
        pairs = zip(expert.firsts, expert.first_biases, strict=True)
        hidden_NF = activate(weights.activation, [_affine(rows_ND, first, bias) for first, bias in pairs])
        out.append(_affine(hidden_NF, expert.last, expert.last_bias))
    return torch.cat([*out, torch.zeros_like(groups[-1])])


def _affine(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return rows @ weight if bias is None else rows @ weight + bias
