"""Best group: a token goes to one group of experts, and to several experts within it (Jiang et al., 2021, SAM,
arXiv:2110.07431). Where a group lies on one device, a token visits one device however many experts it has.

Shape legend: T tokens, E experts, G groups, K chosen.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError
from roster.route import Route


class BestGroup(nn.Module):
    """`p = softmax(scores)`; the group with the largest sum of p, and its k experts with the largest p, weighted by p.

    Args:
        groups: how many, of equal size, one after the other; it divides E.
        k: experts per token, at most those of a group.
    """

    reads_bias = False
    rowwise = True

    def __init__(self, groups: int, k: int):
        super().__init__()
        if groups < 1 or k < 1:
            raise RosterError(f"best group needs groups >= 1 and k >= 1, not {groups} and {k}")
        self.groups, self.k = groups, k

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> Route:
        """A route with k slots per token."""
        T, E = scores_TE.shape
        if E % self.groups or self.k > E // self.groups:
            raise RosterError(f"{E} experts in {self.groups} groups do not make groups of {self.k} or more")
        prob_TGe = scores_TE.float().softmax(1).view(T, self.groups, -1)
        group_T = prob_TGe.sum(2).argmax(1)
        own_Te = prob_TGe[torch.arange(T, device=group_T.device), group_T]
        weight_TK, place_TK = own_Te.topk(self.k, dim=1, sorted=False)
        expert_TK = place_TK + group_T[:, None] * (E // self.groups)
        return Route.slots(expert_TK, weight_TK, E, full=True)
