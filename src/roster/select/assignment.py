"""Balanced assignment: in training every expert gets the same number of tokens, and the total score is the largest
that this allows (Lewis et al., 2021, BASE Layers, arXiv:2103.16716).

Shape legend: T tokens, E experts, C tokens per expert.
"""

from __future__ import annotations

import heapq
import math

import numpy as np
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
        T, E = scores_TE.shape
        if not self.training:
            expert_T = scores_TE.argmax(1)
        elif context.mask_T is None:
            expert_T = assign(scores_TE, self.tolerance)
        else:
            real_T = context.mask_T.to(scores_TE.device)
            expert_T = torch.full((T,), E, device=scores_TE.device)
            expert_T[real_T] = assign(scores_TE[real_T], self.tolerance)
        expert_T1 = expert_T[:, None]
        weight_T1 = scores_TE.gather(1, expert_T1.clamp(max=E - 1)).float().sigmoid()
        return Route.slots(expert_T1, weight_T1.masked_fill(expert_T1 == E, 0.0), E, full=not self.training)


def assign(scores_TE: Tensor, tolerance: float = _COARSE) -> Tensor:
    """An auction for places at experts (Bertsekas, 1992), in which all tokens without a place bid at the same time.

    Every expert has C = ceil(T / E) places. A token bids for the expert whose score less price is best, as much as
    that is better than the second expert, and a little (eps) more; an expert keeps its C highest bids, and its price
    is the lowest of them once it is full. At the end the total is within T * eps of the best. For a fine eps two
    auctions, the first with a coarse one, take fewer bids than one.

    It is held in NumPy and in heaps: most of its hundred rounds are between a handful of tokens, where torch's
    operations take several times as long and those of an accelerator longer still.

    Args:
        scores_TE: what each token is worth at each expert.
        tolerance: of the mean score per token, relative to the spread of the scores.

    Returns:
        The expert of each token, int64 [T]; nobody has more than C tokens.

    Raises:
        RosterError: scores that are not finite.
    """
    T, E = scores_TE.shape
    if T == 0 or E == 1:
        expert_T = np.zeros(T, dtype=np.int64)
    else:
        expert_T = _auctions(scores_TE.detach().float().cpu().numpy(), tolerance)
    return torch.from_numpy(expert_T).to(scores_TE.device)


def _auctions(scores_TE: np.ndarray, tolerance: float) -> np.ndarray:
    T, E = scores_TE.shape
    spread = float(scores_TE.max() - scores_TE.min())
    if not math.isfinite(spread):
        raise RosterError("balanced assignment: there are scores that are not finite")
    price_E = np.zeros(E)
    # Where places stay free, their price must not rise: one auction, from zero.
    coarse_first = T % E == 0 and tolerance < _COARSE
    for eps in (_COARSE, tolerance) if coarse_first else (tolerance,):
        expert_T, price_E = _auction(scores_TE, price_E - price_E.min(), eps * (spread or 1.0))
    return expert_T


def _auction(scores_TE: np.ndarray, start_E: np.ndarray, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """(expert_T, price_E) of one auction that begins with no token placed."""
    T, E = scores_TE.shape
    C = math.ceil(T / E)
    expert_T = np.empty(T, dtype=np.int64)  # of the last bid
    held: list[list[tuple[float, int]]] = [[] for _ in range(E)]  # a heap of (bid, token) each
    price_E = start_E.copy()
    free_F = np.arange(T)
    while len(free_F):
        value_FE = (scores_TE if len(free_F) == T else scores_TE[free_F]) - price_E
        choice_F, row_F = value_FE.argmax(1), np.arange(len(free_F))
        best_F = value_FE[row_F, choice_F]
        value_FE[row_F, choice_F] = -np.inf
        bid_F = price_E[choice_F] + best_F - value_FE.max(1) + eps
        expert_T[free_F] = choice_F
        out = []
        for token, expert, bid in zip(free_F.tolist(), choice_F.tolist(), bid_F.tolist(), strict=True):
            if len(held[expert]) < C:
                heapq.heappush(held[expert], (bid, token))
            else:
                out.append(heapq.heappushpop(held[expert], (bid, token))[1])
        for expert in set(choice_F.tolist()):
            if len(held[expert]) == C:
                price_E[expert] = held[expert][0][0]
        free_F = np.array(out, dtype=np.int64)
    return expert_T, price_E
