"""Routed by error: a router that learns from how wrong the outputs were, not through its weights (Dryden and Hoefler,
2022, Spatial Mixture-of-Experts, arXiv:2211.13491).

Shape legend: B batch rows, S tokens per row, T = B * S, D model width, E experts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError
from roster.router import Router


class RoutedByError(nn.Module):
    """A mixture whose backward pass calls a token misrouted when its error is above a quantile of all errors.

    The error of a token is the size of the loss's gradient at its output. Misrouting is a label for a classification
    loss on the scores of the chosen experts, and damps the gradient that the experts get from that token.

    Args:
        router: decides; its weights need no gradient.
        experts: `(rows_RD grouped by expert, counts_E) -> rows_RD`.
        quantile: of the errors, above which a token counts as misrouted, in (0, 1).
        classification: weight of the routing classification loss.
        damping: factor on the gradient of misrouted tokens, in [0, 1]; 1 is none.
    """

    def __init__(self, router: Router, experts: nn.Module, quantile: float, classification: float, damping: float):
        super().__init__()
        if not 0.0 < quantile < 1.0:
            raise RosterError(f"routing by error: the quantile must lie in (0, 1), not {quantile}")
        if not 0.0 <= damping <= 1.0:
            raise RosterError(f"routing by error: damping must lie in [0, 1], not {damping}")
        self.router, self.experts = router, experts
        self.quantile, self.classification, self.damping = quantile, classification, damping

    def forward(self, x_BSD: Tensor, context: Context) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        x_TD = x_BSD.reshape(-1, x_BSD.shape[-1])
        route = self.router(x_TD, context)
        y_TD: Tensor = route.through(self.experts, x_TD)
        if self.training and torch.is_grad_enabled():
            settings = (self.quantile, self.classification, self.damping)
            chosen_TE = route.chosen()
            # torch's has no annotations
            y_TD = _LearnFromError.apply(y_TD, route.scores_TE, chosen_TE, settings)  # type: ignore[no-untyped-call]
        return y_TD.view_as(x_BSD)


class _LearnFromError(torch.autograd.Function):
    """The identity; its backward pass labels the tokens."""

    @staticmethod
    def forward(
        ctx: Any, y_TD: Tensor, scores_TE: Tensor, chosen_TE: Tensor, settings: tuple[float, float, float]
    ) -> Tensor:
        ctx.save_for_backward(scores_TE, chosen_TE)
        ctx.settings = settings
        return y_TD.clone()

    @staticmethod
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor, Tensor, None, None]:
        scores_TE, chosen_TE = ctx.saved_tensors
        quantile, classification, damping = ctx.settings
        wrong_T1 = misrouted(grad_TD, chosen_TE.any(1), quantile)[:, None]
        # The gradient of a binary cross-entropy on sigmoid(score), averaged over the chosen pairs.
        slope_TE = (scores_TE.float().sigmoid() - (~wrong_T1).float()) * chosen_TE
        slope_TE = slope_TE * (classification / chosen_TE.sum().clamp_min(1))
        return torch.where(wrong_T1, damping * grad_TD, grad_TD), slope_TE.to(scores_TE.dtype), None, None


def misrouted(grad_TD: Tensor, served_T: Tensor, quantile: float) -> Tensor:
    """Whether the error of each served token is above the quantile of all of theirs, bool [T]."""
    error_T = torch.linalg.vector_norm(grad_TD.float(), dim=1)
    sorted_T = error_T.masked_fill(~served_T, torch.inf).sort().values
    limit = sorted_T[(quantile * (served_T.sum() - 1)).floor().long().clamp_min(0)]
    misrouted_T: Tensor = served_T & (error_T > limit)
    return misrouted_T
