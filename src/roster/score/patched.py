"""Patched: the first token of a patch decides for the whole patch.

Shape legend: B batch rows, S tokens of this call, T = B * S, L tokens so far, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError
from roster.positions import positions


class Patched(nn.Module):
    """Another score, read at the first token of each run of `patch` tokens of a row. Causal, unlike a patch's mean.

    Args:
        score: what scores the first tokens.
        patch: tokens per patch, counted from the row's first real token.
        key: unique in the model; under it scores are remembered across decode steps.
    """

    def __init__(self, score: nn.Module, patch: int, key: str):
        super().__init__()
        if patch < 1:
            raise RosterError(f"patched score: a patch has at least one token, not {patch}")
        self.score, self.patch, self.key = score, patch, f"patch/{key}"

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """Scores [T, E]."""
        scores_TE: Tensor = self.score(x_TD, context)
        if self.patch == 1:
            return scores_TE
        position_BS = positions(context, x_TD.device)
        real_BS = torch.ones_like(position_BS) if context.mask_BS is None else context.mask_BS.to(position_BS)
        # A number for every real token, counted from 1: zero is a pad, or a place that a cache has not filled yet.
        number_BS1 = ((position_BS + 1) * real_BS)[..., None].float()  # half precision cannot count beyond 256
        known_BLX = torch.cat([scores_TE.float().view(*position_BS.shape, -1), number_BS1], dim=2)
        if context.history is not None:
            known_BLX = context.history.append(self.key, known_BLX)
        first_BS = position_BS - position_BS % self.patch + 1
        match_BSL = known_BLX[:, None, :, -1] == first_BS[..., None]
        index_BS1 = match_BSL.to(torch.uint8).argmax(2)[..., None]
        scores_BSE = known_BLX[..., :-1].gather(1, index_BS1.expand(-1, -1, scores_TE.shape[1]))
        return scores_BSE.reshape(scores_TE.shape).to(scores_TE.dtype)
