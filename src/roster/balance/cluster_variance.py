"""Cluster loss: experts of one cluster are alike for a token, clusters differ (Xie et al., 2022, MoEC,
arXiv:2207.09094).

Shape legend: T tokens, E experts, C clusters.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roster.balance.mean import over_tokens
from roster.context import Context
from roster.route import AnyRoute, scores_of


class ClusterVariance(nn.Module):
    """`coefficient * mean over tokens of within / (within + between)`: the share of variance inside the clusters.

    `within` is the variance of a token's routing probabilities around the mean of their cluster, `between` that of the
    clusters' means around the mean of all, both averaged over experts: they add up to the variance of all
    probabilities. The source asks for the same by a loss on variances; its exact form is not known here, and a share
    has the merit of not rewarding probabilities that are all alike.

    Args:
        clusters: the cluster of each expert, numbered from 0.
        coefficient: weight of the loss.
    """

    member_EC: Tensor

    def __init__(self, clusters: Sequence[int], coefficient: float = 0.01):
        super().__init__()
        self.coefficient = coefficient
        self.register_buffer("member_EC", F.one_hot(torch.tensor(clusters)).float())

    def forward(self, route: AnyRoute, context: Context) -> Tensor:
        """A scalar."""
        prob_TE = scores_of(route).float().softmax(1)
        within_T, between_T = self.parts(prob_TE)
        share_T = within_T / (within_T + between_T).clamp_min(1e-12)
        return self.coefficient * over_tokens(share_T, context)

    def parts(self, prob_TE: Tensor) -> tuple[Tensor, Tensor]:
        """Variance within and between the clusters for each token, [T] and [T]."""
        mean_TC = prob_TE @ self.member_EC / self.member_EC.sum(0)
        own_TE = mean_TC @ self.member_EC.T
        within_T = (prob_TE - own_TE).square().mean(1)
        between_T = (own_TE - prob_TE.mean(1, keepdim=True)).square().mean(1)
        return within_T, between_T
