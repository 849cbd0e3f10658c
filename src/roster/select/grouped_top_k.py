"""Grouped top-k: first the best groups of experts, then the best experts in them (DeepSeek-AI, 2024, DeepSeek-V2,
arXiv:2405.04434, section 2.2.2, and DeepSeek-V3, arXiv:2412.19437, section 2.1.2).

Shape legend: T tokens, E experts in N groups, K chosen.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError
from roster.route import Route


class GroupedTopK(nn.Module):
    """The k best experts of the best groups, weighted by their own affinities.

    Affinities are `sigmoid(scores)` or `softmax(scores)`; a bias (loss-free balancing) decides who is chosen and never
    the weights. With one group this is plain top-k over affinities.

    Args:
        k: experts per token.
        groups: N; E must divide by it.
        keep: groups that a token may choose from.
        affinity: "sigmoid" (V3) or "softmax" (V2).
        group_score: a group counts as the sum of its "best two" affinities (V3) or as its "best" one (V2).
        normalise: whether the weights are divided by their sum.
        scale: of the weights, at the end.
    """

    reads_bias = True
    rowwise = True

    def __init__(
        self,
        k: int,
        groups: int = 1,
        keep: int = 1,
        affinity: Literal["sigmoid", "softmax"] = "sigmoid",
        group_score: Literal["best two", "best"] = "best two",
        normalise: bool = True,
        scale: float = 1.0,
    ):
        super().__init__()
        if affinity not in ("sigmoid", "softmax") or group_score not in ("best two", "best"):
            raise RosterError(f"grouped top-k: affinity={affinity!r} or group_score={group_score!r} is not known")
        if k < 1 or not 1 <= keep <= groups:
            raise RosterError(f"grouped top-k needs k >= 1 and 1 <= keep <= groups, not {k=}, {keep=}, {groups=}")
        self.k, self.groups, self.keep = k, groups, keep
        self.affinity, self.group_score, self.normalise, self.scale = affinity, group_score, normalise, scale

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> Route:
        """A route with k slots per token.

        Raises:
            RosterError: groups that the experts do not divide into, or that hold fewer than k together.
        """
        T, E = scores_TE.shape
        if E % self.groups or self.k > self.keep * (E // self.groups):
            raise RosterError(
                f"grouped top-k: k={self.k} of {E} experts in {self.groups} groups, of which {self.keep} are kept"
            )
        scores_TE = scores_TE.float()
        affinity_TE = scores_TE.sigmoid() if self.affinity == "sigmoid" else scores_TE.softmax(1)
        ranked_TE = affinity_TE if bias_E is None else affinity_TE + bias_E
        if self.keep < self.groups:
            grouped_TNG = ranked_TE.view(T, self.groups, -1)
            best = min(2 if self.group_score == "best two" else 1, grouped_TNG.shape[2])
            kept = grouped_TNG.topk(best, dim=2).values.sum(2).topk(self.keep, dim=1, sorted=False).indices
            off_TN = torch.ones(T, self.groups, dtype=torch.bool, device=kept.device).scatter(1, kept, False)
            ranked_TE = grouped_TNG.masked_fill(off_TN[:, :, None], -torch.inf).view(T, E)
        expert_TK = ranked_TE.topk(self.k, dim=1, sorted=False).indices
        weight_TK = affinity_TE.gather(1, expert_TK)
        if self.normalise:
            weight_TK = weight_TK / (weight_TK.sum(1, keepdim=True) + 1e-20)
        return Route.slots(expert_TK, weight_TK * self.scale, E, full=True)
