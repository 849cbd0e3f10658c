"""Soft selection: every expert reads weighted means of a row's tokens (Puigcerver et al., 2023, "From Sparse to
Soft Mixtures of Experts", arXiv:2308.00951).

A token's output depends on the tokens after it, so this is for encoders and images; a causal model that uses it
does not generate what it was trained for. Padding is left out of the means.

Shape legend: B batch rows, S tokens per row, T = B * S, E experts, P slots per expert, R = E * B * P rows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError
from roster.route import SoftRoute


class Soft(nn.Module):
    """Softmax over the tokens of a row dispatches, softmax over all slots combines.

    Args:
        slots: P; the scores that come in must be [T, E * P], grouped by expert.
    """

    reads_bias = False

    def __init__(self, slots: int = 1):
        super().__init__()
        self.slots = slots

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> SoftRoute:
        """A soft route; slots of different batch rows are different rows, so rows never mix."""
        B, S, P = context.batch, context.length, self.slots
        if scores_TE.shape[1] % P:
            raise RosterError(f"soft: {scores_TE.shape[1]} scores per token do not divide into {P} slots per expert")
        E = scores_TE.shape[1] // P
        scores_BSN = scores_TE.float().view(B, S, E * P)
        if context.mask_BS is not None:
            scores_BSN = scores_BSN.masked_fill(~context.mask_BS[..., None].to(scores_TE.device), -torch.inf)
        dispatch_BSN = scores_BSN.softmax(1).nan_to_num(0.0)
        combine_BSN = scores_BSN.softmax(2).nan_to_num(0.0)
        return SoftRoute(self._rows(dispatch_BSN, E), self._rows(combine_BSN, E), E)

    def _rows(self, weight_BSN: Tensor, E: int) -> Tensor:
        """[B, S, E * P] -> [T, E * B * P], with zeros between tokens and slots of different batch rows."""
        B, S, _ = weight_BSN.shape
        weight_BSEP = weight_BSN.view(B, S, E, self.slots)
        same_BB = torch.eye(B, dtype=weight_BSN.dtype, device=weight_BSN.device)
        return torch.einsum("bsep,bc->bsecp", weight_BSEP, same_BB).reshape(B * S, -1)
