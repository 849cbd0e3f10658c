"""The mean over real tokens that balance losses share.

Shape legend: T tokens.
"""

from __future__ import annotations

from torch import Tensor

from roster.context import Context


def over_tokens(value_T: Tensor, context: Context) -> Tensor:
    """Mean of one value per token, or of [T, X] per column, with padding left out; zero when all is padding."""
    mask_T = context.mask_T
    if mask_T is None:
        return value_T.mean(0)
    weight_T = mask_T.to(value_T).view(-1, *[1] * (value_T.dim() - 1))
    return (value_T * weight_T).sum(0) / weight_T.sum().clamp_min(1.0)
