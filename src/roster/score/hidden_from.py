"""Hidden from: another score, of which every token of the vocabulary sees some experts only (Su et al., 2024, MaskMoE,
arXiv:2407.09816).

Shape legend: T tokens, D width, E experts, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError


class HiddenFrom(nn.Module):
    """`scores = -inf` where an expert is hidden from the token id.

    Args:
        score: what scores the others.
        visible_VE: whether each token id sees each expert; every id sees one or more.
        needed_by: who to name in the error when there are no token ids.
    """

    visible_VE: Tensor

    def __init__(self, score: nn.Module, visible_VE: Tensor, needed_by: str = "this router"):
        super().__init__()
        blind = (~visible_VE.any(1)).nonzero()
        if len(blind):
            raise RosterError(f"{needed_by}: token id {int(blind[0])} sees no expert")
        self.score, self.needed_by = score, needed_by
        self.register_buffer("visible_VE", visible_VE.clone())

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """Scores [T, E]."""
        if context.input_ids_BS is None:
            raise RosterError(f"{self.needed_by} routes by token ids, but the model was called with embeddings")
        visible_TE = self.visible_VE[context.input_ids_BS.reshape(-1).to(x_TD.device)]
        scores_TE: Tensor = self.score(x_TD, context).masked_fill(~visible_TE, -torch.inf)
        return scores_TE


def visible_experts(seen_V: Sequence[int], num_experts: int, seed: int = 0) -> Tensor:
    """Draws which experts each token id sees.

    Args:
        seen_V: how many, per token id; from 1 to E.
        num_experts: E.
        seed: of the draw.

    Returns:
        bool [V, E]
    """
    generator = torch.Generator().manual_seed(seed)
    rank_VE = torch.rand(len(seen_V), num_experts, generator=generator).argsort(1).argsort(1)
    return rank_VE < torch.tensor(seen_V)[:, None]
