"""Balanced assignment: in training every expert gets the same number of tokens, and the total score is the largest
that this allows (Lewis et al., 2021, BASE Layers, arXiv:2103.16716).

Shape legend: T tokens, E experts, C tokens per expert.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError
from roster.route import Route

_COARSE = 0.02  # what the authors' own implementation adds to a bid, of the spread of the scores


class BalancedAssignment(nn.Module):
    """One expert per token: the best at evaluation, that of the assignment in training; weighted by a sigmoid.

    Args:
        tolerance: the assignment's mean score per token is this close to the best, relative to the spread of the
            scores.
    """

    reads_bias = False

    def __init__(self, tolerance: float = _COARSE):
        super().__init__()
        if not tolerance > 0:
            raise RosterError(f"balanced assignment needs a tolerance above 0, not {tolerance}")
        self.tolerance = tolerance

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> Route:
        """A route with one slot per token; in training padding has nobody."""
        E = scores_TE.shape[1]
        expert_T = scores_TE.argmax(1)
        if self.training:
            real_T = torch.ones_like(expert_T, dtype=torch.bool)
            if context.mask_T is not None:
                real_T = context.mask_T.to(expert_T.device)
            expert_T = torch.full_like(expert_T, E)
            expert_T[real_T] = assign(scores_TE.detach()[real_T].float(), self.tolerance)
        scores_TX = torch.cat([scores_TE, torch.full_like(scores_TE[:, :1], -torch.inf)], dim=1)
        weight_T1 = scores_TX.float().gather(1, expert_T[:, None]).sigmoid()
        return Route.slots(expert_T[:, None], weight_T1, E, full=not self.training)


@torch.no_grad()
def assign(scores_TE: Tensor, tolerance: float = _COARSE) -> Tensor:
    """An auction for places at experts (Bertsekas, 1992), in which all tokens without a place bid at the same time.

    Every expert has C = ceil(T / E) places. A token bids for the expert whose score less price is best, as much as
    that is better than the second expert, and a little (eps) more; an expert keeps its C highest bids, and its price
    is the lowest of them once it is full. At the end the total is within T * eps of the best. For a fine eps two
    auctions, the first with a coarse one, take fewer bids than one.

    Args:
        scores_TE: what each token is worth at each expert.
        tolerance: of the mean score per token, relative to the spread of the scores.

    Returns:
        The expert of each token, int64 [T]; nobody has more than C tokens.

    Raises:
        RosterError: scores that are not finite.
    """
    T, E = scores_TE.shape
    spread = float(scores_TE.max() - scores_TE.min()) if T else 0.0
    if not math.isfinite(spread):
        raise RosterError("balanced assignment: there are scores that are not finite")
    if T == 0 or E == 1:
        return torch.zeros(T, dtype=torch.int64, device=scores_TE.device)
    scores_TE, spread = scores_TE.double(), spread or 1.0
    price_E = scores_TE.new_zeros(E)
    # Where places stay free, their price must not rise: one auction, from zero.
    coarse_first = T % E == 0 and tolerance < _COARSE
    for eps in (_COARSE, tolerance) if coarse_first else (tolerance,):
        expert_T, price_E = _auction(scores_TE, price_E - price_E.min(), eps * spread)
    return expert_T


def _auction(scores_TE: Tensor, start_E: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(expert_T, price_E) of one auction that begins with no token placed.

    Most of the hundreds of rounds are between a handful of tokens, so a round touches only the experts that get bids.
    """
    T, E = scores_TE.shape
    C = math.ceil(T / E)
    bid_EC = scores_TE.new_full((E, C), -torch.inf)
    holder_EC = torch.full((E, C), T, device=scores_TE.device)  # T where the place is free
    price_E = start_E.clone()
    free_F = torch.arange(T, device=scores_TE.device)
    while len(free_F):
        best_F2, choice_F2 = (scores_TE[free_F] - price_E).topk(2, dim=1)
        choice_F, order_F = choice_F2[:, 0].sort(stable=True)
        bid_F = price_E[choice_F] + (best_F2[:, 0] - best_F2[:, 1])[order_F] + eps
        expert_X, row_F, size_X = choice_F.unique_consecutive(return_inverse=True, return_counts=True)
        # The bids of each expert that got some, behind those that it holds; the C highest stay.
        place_F = C + torch.arange(len(choice_F), device=choice_F.device) - (size_X.cumsum(0) - size_X)[row_F]
        width = C + int(size_X.max())
        bid_XW = bid_EC.new_full((len(expert_X), width), -torch.inf)
        holder_XW = holder_EC.new_full((len(expert_X), width), T)
        bid_XW[:, :C], holder_XW[:, :C] = bid_EC[expert_X], holder_EC[expert_X]
        bid_XW[row_F, place_F], holder_XW[row_F, place_F] = bid_F, free_F[order_F]
        bid_XW, order_XW = bid_XW.sort(dim=1, descending=True, stable=True)
        holder_XW = holder_XW.gather(1, order_XW)
        bid_EC[expert_X], holder_EC[expert_X] = bid_XW[:, :C], holder_XW[:, :C]
        lowest_X = bid_XW[:, C - 1]
        price_E[expert_X] = torch.where(lowest_X > -torch.inf, lowest_X, start_E[expert_X])
        out_XL = holder_XW[:, C:]
        free_F = out_XL[out_XL < T]
    expert_T1 = torch.full((T + 1,), E, device=scores_TE.device)
    expert_T1[holder_EC] = torch.arange(E, device=scores_TE.device)[:, None].expand(E, C)
    return expert_T1[:T], price_E
