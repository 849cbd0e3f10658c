"""Cosine score: the angle between a token and one vector per expert, scaled.

Shape legend: T tokens, D width, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roster.context import Context
from roster.score.projection import project


class Cosine(nn.Module):
    """`scores = scale * cos(x - mean(x), v - mean(v))`; the means are only taken off when `center` is set.

    Args:
        vectors_ED: one vector per expert.
        scale: multiplies the cosine, in other words the inverse temperature of a softmax over it.
        center: subtract the mean over D of each vector first (then the cosine is Pearson's correlation).
        trains: whether the vectors are parameters; otherwise they are a buffer and get no gradient.
    """

    vectors_ED: Tensor

    def __init__(self, vectors_ED: Tensor, scale: float = 1.0, center: bool = False, trains: bool = False):
        super().__init__()
        self.scale, self.center = scale, center
        if trains:
            self.vectors_ED = nn.Parameter(vectors_ED.clone())
        else:
            self.register_buffer("vectors_ED", vectors_ED.clone())

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """Scores [T, E], within [-scale, scale]."""
        vectors_ED = self.vectors_ED
        if self.center:
            x_TD = x_TD - x_TD.mean(-1, keepdim=True)
            vectors_ED = vectors_ED - vectors_ED.mean(-1, keepdim=True)
        v_ED = F.normalize(vectors_ED.float(), dim=-1)
        # Dividing the E products by the norm is cheaper than normalising D components of every token.
        norm_T1 = torch.linalg.vector_norm(x_TD, dim=-1, keepdim=True).clamp_min(1e-12)
        scores_TE: Tensor = project(x_TD, v_ED) * (self.scale / norm_T1)
        return scores_TE
