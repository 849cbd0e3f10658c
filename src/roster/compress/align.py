"""Putting the hidden units of one expert into the order of another's: a permutation changes no output, but means do.

Shape legend: F hidden units of an expert, D model width, N sampled tokens.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from roster.compress.mixture import PARTS

Matrices = Mapping[str, Tensor]


def by_weights(to: Matrices, of: Matrices) -> Tensor:
    """Order of `of`'s units in which the sum of inner products with `to`'s is largest (Li et al. 2024, MC-SMoE).

    Returns:
        [F]: unit i of `to` meets unit order[i] of `of`.
    """
    return _assign(sum((_units(to, part) @ _units(of, part).T for part in PARTS), torch.zeros(())))


def by_activations_and_weights(to: Matrices, of: Matrices, to_NF: Tensor, of_NF: Tensor) -> Tensor:
    """Order in which units are nearest in what they say of the sampled tokens and in their weights (REAM).

    Both distances are divided by their means, so that neither counts more.
    """
    both = [torch.cat([_units(each, part) for part in PARTS], dim=1) for each in (to, of)]
    weights = torch.cdist(both[0], both[1])
    said = torch.cdist(to_NF.T, of_NF.T)
    scaled = [each / each.mean().clamp(min=1e-12) for each in (weights, said)]
    return _assign(-(scaled[0] + scaled[1]))


def _units(matrices: Matrices, part: str) -> Tensor:
    """[F, D]: what belongs to each unit."""
    return matrices[part].T if part == "down" else matrices[part]


def _assign(gain_FF: Tensor) -> Tensor:
    from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

    rows, columns = linear_sum_assignment(gain_FF.numpy(), maximize=True)
    order = torch.empty(len(rows), dtype=torch.long)
    order[torch.from_numpy(rows)] = torch.from_numpy(columns)
    return order
