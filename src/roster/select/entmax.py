"""Entmax selection: a softmax that gives most experts exactly nothing (Peters, Niculae and Martins, 2019,
arXiv:1905.05702; as a gate in Oldfield et al., 2024, arXiv:2402.12550).

Shape legend: T tokens, E experts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.route import Route


class Entmax(nn.Module):
    """1.5-entmax of the scores: `max(s / 2 - t, 0)^2`, with the t for which a token's weights sum to 1."""

    reads_bias = False

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> Route:
        """A route with one to E experts per token."""
        gate_TE = entmax(scores_TE.float())
        return Route.from_gates(gate_TE, gate_TE > 0)


def entmax(scores_TE: Tensor) -> Tensor:
    """1.5-entmax along the last axis; exact, with the threshold found among the sorted scores."""
    half_TE = scores_TE / 2
    half_TE = half_TE - half_TE.max(1, keepdim=True).values.detach()
    with torch.no_grad():
        sorted_TE = half_TE.sort(dim=1, descending=True).values
        count_E = torch.arange(1, sorted_TE.shape[1] + 1, device=sorted_TE.device, dtype=sorted_TE.dtype)
        mean_TE = sorted_TE.cumsum(1) / count_E
        spread_TE = sorted_TE.square().cumsum(1) - count_E * mean_TE.square()
        threshold_TE = mean_TE - ((1 - spread_TE) / count_E).clamp_min(0).sqrt()
        support_T1 = (threshold_TE <= sorted_TE).sum(1, keepdim=True)
        threshold_T1 = threshold_TE.gather(1, support_T1 - 1)
    weights_TE: Tensor = _Entmax.apply(half_TE, threshold_T1)  # type: ignore[no-untyped-call]  # torch's has no annotations
    return weights_TE


class _Entmax(torch.autograd.Function):
    """The weights for a known threshold, with the gradient through the threshold."""

    @staticmethod
    def forward(ctx: Any, half_TE: Tensor, threshold_T1: Tensor) -> Tensor:
        root_TE = (half_TE - threshold_T1).clamp_min(0)
        ctx.save_for_backward(root_TE)
        return root_TE.square()

    @staticmethod
    def backward(ctx: Any, grad_TE: Tensor) -> tuple[Tensor, None]:
        (root_TE,) = ctx.saved_tensors
        # d weight_i / d half_j = 2 r_i (1[i = j] - r_j / sum r)
        mean_T1 = (grad_TE * root_TE).sum(1, keepdim=True) / root_TE.sum(1, keepdim=True)
        return 2 * root_TE * (grad_TE - mean_T1), None
