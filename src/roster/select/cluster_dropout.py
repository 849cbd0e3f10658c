"""Cluster-level expert dropout: in training a share of every cluster's experts is off duty (Xie et al., 2022, MoEC,
arXiv:2207.09094).

Shape legend: T tokens, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError
from roster.route import AnyRoute


class ClusterDropout(nn.Module):
    """Another selection, among those experts that each token did not lose.

    Every cluster keeps at least one expert, so that a token finds a stand-in like the one it lost.

    Args:
        select: chooses among the rest; experts off duty score minus infinity.
        clusters: the cluster of each expert.
        share: of each cluster that is off duty, in [0, 1); rounded down to whole experts.
    """

    def __init__(self, select: nn.Module, clusters: Sequence[int], share: float):
        super().__init__()
        if not 0.0 <= share < 1.0:
            raise RosterError(f"cluster dropout: the share must be at least 0 and below 1, not {share}")
        self.select, self.share = select, share
        self.reads_bias = getattr(select, "reads_bias", False)
        self.members = [[e for e, each in enumerate(clusters) if each == c] for c in sorted(set(clusters))]

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> AnyRoute:
        """The other selection's route."""
        if self.training and self.share:
            scores_TE = scores_TE.masked_fill(self._off_TE(scores_TE), -torch.inf)
        route: AnyRoute = self.select(scores_TE, context, bias_E)
        return route

    def _off_TE(self, scores_TE: Tensor) -> Tensor:
        off_TE = torch.zeros_like(scores_TE, dtype=torch.bool)
        for members in self.members:
            lots = torch.rand(len(scores_TE), len(members), device=scores_TE.device)
            drawn = lots.topk(int(self.share * len(members)), dim=1, sorted=False).indices
            off_TE.scatter_(1, torch.tensor(members, device=drawn.device)[drawn], True)
        return off_TE
