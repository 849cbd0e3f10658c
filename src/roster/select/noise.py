"""Gumbel noise: added to scores, it turns the largest into a draw from their softmax (Gumbel, 1954)."""

from __future__ import annotations

import torch
from torch import Tensor


def gumbel(*shape: int, device: torch.device) -> Tensor:
    """`-log(-log(u))` of uniform u; torch's exponential draws take four times as long."""
    return -torch.rand(shape, device=device).clamp_min_(1e-38).log_().neg_().log_()
