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


class BalancedAssignment(nn.Module):
    """One expert per token: the best at evaluation, that of the assignment in training; weighted by a sigmoid.

    Args:
        tolerance: the assignment's mean score per token is this close to the best, relative to the spread of the
            scores.
    """

    reads_bias = False

    def __init__(self, tolerance: float = 1e-3):
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
def assign(scores_TE: Tensor, tolerance: float = 1e-3) -> Tensor:
    """An auction for places at experts (Bertsekas, 1992), in which all tokens without a place bid at the same time.

    Every expert has C = ceil(T / E) places. A token bids for the expert whose score less price is best, as much as
    that is better than the second expert, and a little (eps) more; an expert keeps its C highest bids, and its price
    is the lowest of them once it is full. At the end the total is within T * eps of the best. Two rounds of auctions,
    the first with a coarse eps, take fewer bids than one.

    Args:
        scores_TE: what each token is worth at each expert.
        tolerance: of the mean score per token, relative to the spread of the scores.

    Returns:
        The expert of each token, int64 [T]; nobody has more than C tokens.

    Raises:
        RosterError: scores that are not finite.
    """
    T, E = scores_TE.shape
    if not bool(scores_TE.isfinite().all()):
        raise RosterError("balanced assignment: there are scores that are not finite")
    if T == 0 or E == 1:
        return torch.zeros(T, dtype=torch.int64, device=scores_TE.device)
    scores_TE = scores_TE.double()
    spread = float(scores_TE.max() - scores_TE.min()) or 1.0
    fine, coarse = tolerance * spread, max(0.02, tolerance) * spread
    price_E = scores_TE.new_zeros(E)
    # Where places stay free, their price must not rise: one auction, from zero.
    for eps in (fine,) if T % E else (coarse, fine):
        expert_T, price_E = _auction(scores_TE, price_E - price_E.min(), eps)
    return expert_T


def _auction(scores_TE: Tensor, start_E: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(expert_T, price_E) of one auction that begins with no token placed."""
    T, E = scores_TE.shape
    C, device = math.ceil(T / E), scores_TE.device
    expert_T = torch.full((T,), E, device=device)
    bid_T = torch.full((T,), -torch.inf, device=device, dtype=scores_TE.dtype)
    price_E = start_E
    while True:
        free_T = (expert_T == E).nonzero().squeeze(1)
        if len(free_T) == 0:
            return expert_T, price_E
        best_F2, choice_F2 = (scores_TE[free_T] - price_E).topk(2, dim=1)
        choice_F = choice_F2[:, 0]
        bid_T[free_T] = price_E[choice_F] + best_F2[:, 0] - best_F2[:, 1] + eps
        expert_T[free_T] = choice_F
        # The C highest bids of every expert stay; T is small enough for one sort of all.
        offer_TE = torch.full_like(scores_TE, -torch.inf).scatter(1, expert_T[:, None], bid_T[:, None])
        kept_CE, holder_CE = offer_TE.topk(C, dim=0)
        expert_T = torch.full_like(expert_T, E)
        held_CE = kept_CE > -torch.inf
        owner_CE = torch.arange(E, device=device).expand(C, E)
        expert_T[holder_CE[held_CE]] = owner_CE[held_CE]
        price_E = torch.where(held_CE, kept_CE, start_E).amin(0)
