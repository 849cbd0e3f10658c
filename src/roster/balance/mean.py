"""Counts and means over real tokens that balance losses share: of one call, or of all processes that share a batch.

Shape legend: T tokens, X values of each.
"""

from __future__ import annotations

import torch
from torch import Tensor

from roster.context import Context
from roster.processes import total


def over_tokens(value_T: Tensor, context: Context) -> Tensor:
    """Mean of one value per token, or of [T, X] per column, with padding left out; zero when all is padding."""
    mask_T = context.mask_T
    if mask_T is None and context.processes is None:
        return value_T.mean(0)
    if mask_T is None:
        return share(value_T.sum(0), context, len(value_T))
    weight_T = mask_T.to(value_T).view(-1, *[1] * (value_T.dim() - 1))
    return share((value_T * weight_T).sum(0), context, len(value_T))


def share(sum_X: Tensor, context: Context, tokens: int) -> Tensor:
    """A sum over the real tokens of a call, divided by how many they are.

    Args:
        sum_X: of any shape.
        context: of the call; where processes share a batch, both are summed over them.
        tokens: T of the call, padding included.
    """
    mask_T = context.mask_T
    if context.processes is None:
        return sum_X / (tokens if mask_T is None else mask_T.to(sum_X).sum().clamp_min(1.0))
    return total(sum_X, context.processes) / counted(context, tokens, sum_X.device).to(sum_X).clamp_min(1.0)


@torch.no_grad()
def counted(context: Context, tokens: int, device: torch.device) -> Tensor:
    """How many real tokens there are, in all processes that share the batch."""
    mask_T = context.mask_T
    real = torch.tensor(tokens, device=device) if mask_T is None else mask_T.sum().to(device)
    return total(real, context.processes)
