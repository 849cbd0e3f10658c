"""Merging LoRA adapters of one base into one adapter: exactly, or at a rank, without ever making their product.

`concatenate` is exact: the factors side by side, the rank is the sum of the ranks. `compress` is the best adapter of a
rank (in the Frobenius norm): bases of the stacked factors, an SVD of the small core between them. `average_factors`
adds the factors A and B apart, as PEFT's `linear` and PEM arithmetic do: it is the sum of the updates only in part (B_1
A_2 comes along), so it has to be asked for by name.

Negation and analogy are weights below zero: `concatenate(adapters, [1, 1, -1])` is "first plus second minus third".

Sources: exact concatenation as PEFT's `cat`; the truncated SVD is Eckart and Young's; PEM arithmetic: Zhang et al.
2023, arXiv 2306.14870.

Shape legend: R rank, S sum of ranks, O out_features, I in_features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from roster.errors import RosterError
from roster.library import LowRank
from roster.library.dora import check_plain

_APART = 1e-4
"""Smallest ratio of a core's pivots that Cholesky is trusted with: squared, it is far above float64's rounding."""


def concatenate(updates: Sequence[LowRank], weights: Sequence[float]) -> LowRank:
    """`sum_i w_i scale_i B_i A_i`, exactly.

    Args:
        updates: of one linear layer.
        weights: one for each.

    Returns:
        Rank the sum of theirs, scale 1.

    Raises:
        RosterError: another number of weights than of updates, or updates of different layers.
    """
    _check(updates, weights)
    factors = [w * each.scale for w, each in zip(weights, updates, strict=True)]
    A_SI = torch.cat([each.A_RD for each in updates])
    B_OS = torch.cat([factor * each.B_OR for factor, each in zip(factors, updates, strict=True)], dim=1)
    return LowRank(A_SI, B_OS, 1.0)


def compress(updates: Sequence[LowRank], weights: Sequence[float], rank: int) -> tuple[LowRank, float]:
    """The nearest update of a rank to `sum_i w_i scale_i B_i A_i`.

    Args:
        updates: of one linear layer.
        weights: one for each.
        rank: at most this; less where the sum has less.

    Returns:
        The update (scale 1, its norm shared evenly by the factors), and the error relative to the sum's norm.

    Raises:
        RosterError: see `concatenate`; a rank below 1.
    """
    if rank < 1:
        raise RosterError(f"rank={rank} must be at least 1")
    whole = concatenate(updates, weights)
    out, into = _Basis.of(whole.B_OR.double()), _Basis.of(whole.A_RD.double().T)
    left, values, right = torch.linalg.svd(out.core_SS @ into.core_SS.T, full_matrices=False)
    kept = min(rank, len(values))
    root = values[:kept].sqrt()
    A_RI = into.combine(right[:kept].T * root).T
    B_OR = out.combine(left[:, :kept] * root)
    norm = float(values.norm())
    error = float(values[kept:].norm()) / norm if norm > 0 else 0.0
    return LowRank(A_RI.to(whole.A_RD.dtype), B_OR.to(whole.B_OR.dtype), 1.0), error


@dataclass(frozen=True)
class _Basis:
    """An orthonormal basis Q of a tall matrix's columns, and the core for which `X = Q core`.

    Q is made only of those columns that are asked for: `X core^-1` with the core by Cholesky from the inner products of
    the columns, where these lie far enough apart for float64; else the one that QR makes.
    """

    vectors_NS: Tensor
    core_SS: Tensor
    inverted: bool

    @classmethod
    def of(cls, x_NS: Tensor) -> _Basis:
        """Of a matrix in float64."""
        if x_NS.shape[0] >= x_NS.shape[1]:
            lower_SS, failed = torch.linalg.cholesky_ex(x_NS.T @ x_NS)
            pivots_S = lower_SS.diagonal()
            if not failed and bool(pivots_S.min() > _APART * pivots_S.max()):
                return cls(x_NS, lower_SS.T, True)
        vectors_NS, core_SS = torch.linalg.qr(x_NS)
        return cls(vectors_NS, core_SS, False)

    def combine(self, weights_SR: Tensor) -> Tensor:
        """`Q weights`, [N, R]."""
        if self.inverted:
            weights_SR = torch.linalg.solve_triangular(self.core_SS, weights_SR, upper=True)
        combined_RN: Tensor = weights_SR.T @ self.vectors_NS.T  # the quicker way round for either layout
        return combined_RN.T


def average_factors(updates: Sequence[LowRank], weights: Sequence[float]) -> LowRank:
    """A and B averaged apart (PEM arithmetic's addition): not the sum of the updates.

    It makes sense where the adapters started from one A, as then the cross terms point the same way.

    Raises:
        RosterError: see `concatenate`; ranks or scales that differ.
    """
    _check(updates, weights)
    if len({(each.A_RD.shape[0], each.scale) for each in updates}) > 1:
        raise RosterError("factors can be averaged only for adapters of one rank and one scale; concatenate is exact")
    A_RI = _sum([w * each.A_RD for w, each in zip(weights, updates, strict=True)])
    B_OR = _sum([w * each.B_OR for w, each in zip(weights, updates, strict=True)])
    return LowRank(A_RI, B_OR, updates[0].scale)


def _sum(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(tensors)).sum(0)


def _check(updates: Sequence[LowRank], weights: Sequence[float]) -> None:
    for each in updates:
        check_plain(each, "merging adapters into one")
    if not updates or len(updates) != len(weights):
        raise RosterError(f"{len(updates)} adapters and {len(weights)} weights: give one weight for each adapter")
    shapes = {(each.B_OR.shape[0], each.A_RD.shape[1]) for each in updates}
    if len(shapes) > 1:
        raise RosterError(f"updates of different layers cannot be merged: {sorted(shapes)}")
