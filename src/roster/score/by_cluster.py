"""By cluster: what a prompt is like decides, and the tokens do not (Gou et al., 2023, MoCLE, arXiv:2312.12379).

How much of which cluster a row is was decided before the first layer (see `roster.adapters.nearness`); every cluster
has a learned vector here, which a linear gate reads.

Shape legend: B batch rows, T tokens, E experts, R ranks of an expert, C clusters, V width of a cluster's vector.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from roster.context import DECISION, Context


class ByCluster(nn.Module):
    """`scores = W (sum_c share_c v_c)`.

    Args:
        clusters: C.
        width: V.
        num_experts: E.
        ranks: of each expert, for scores per rank, [T, E * R]; by default one score per expert.
        std: standard deviation of the initial scores of a cluster.
    """

    reads_tokens = False

    def __init__(self, clusters: int, width: int, num_experts: int, ranks: Sequence[int] = (1,), std: float = 1.0):
        super().__init__()
        self.vectors_CV = nn.Parameter(torch.randn(clusters, width))
        self.weight_ERV = nn.Parameter(torch.randn(num_experts, max(ranks), width) * std * width**-0.5)

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """Scores [T, E], or [T, E * R] grouped by expert."""
        cluster_BK, share_BK = context.memory[DECISION].unbind(1)
        share_BC = share_BK.new_zeros(len(share_BK), len(self.vectors_CV))
        share_BC = share_BC.scatter_add(1, cluster_BK.long(), share_BK).to(self.vectors_CV)
        return context.per_token(share_BC @ self.vectors_CV @ self.weight_ERV.flatten(0, 1).T)
