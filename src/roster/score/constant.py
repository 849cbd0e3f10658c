"""Constant score: the same for every token. With `All` it mixes experts in fixed proportions.

Shape legend: T tokens, E experts.
"""

from __future__ import annotations

from torch import Tensor, nn

from roster.context import Context


class Constant(nn.Module):
    """`scores = c`, whatever the token.

    Args:
        scores_E: the score of each expert.
        trains: whether they are parameters; otherwise they are a buffer and get no gradient.
    """

    scores_E: Tensor

    def __init__(self, scores_E: Tensor, trains: bool = False):
        super().__init__()
        if trains:
            self.scores_E = nn.Parameter(scores_E.clone())
        else:
            self.register_buffer("scores_E", scores_E.clone())

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """Scores [T, E]."""
        return self.scores_E.expand(x_TD.shape[0], -1)
