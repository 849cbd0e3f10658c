"""Random score: a yardstick. At evaluation it is a fixed draw per (token id, expert), so that the same text is
always routed the same way, cached or not, alone or in a batch; in training every call draws anew.

Shape legend: T tokens, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError

_MODULUS = 2**31 - 1  # prime; products of two residues below it fit in int64


class Random(nn.Module):
    """Uniform scores in [0, 1) that depend on nothing but the token id, the expert and the seed.

    Args:
        num_experts: E.
        seed: of the draw; give every site its own, or all sites route alike.
    """

    key_E: Tensor

    def __init__(self, num_experts: int, seed: int = 0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("key_E", torch.randint(1, _MODULUS, (num_experts,), generator=generator))

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """Scores [T, E] in [0, 1)."""
        if self.training:
            return torch.rand(x_TD.shape[0], len(self.key_E), device=x_TD.device)
        if context.input_ids_BS is None:
            raise RosterError("random routing needs token ids, but the model was called with embeddings")
        token_T1 = context.input_ids_BS.reshape(-1, 1).to(x_TD.device) + 1
        mixed_TE = (token_T1 * self.key_E) % _MODULUS
        mixed_TE = (mixed_TE * 48271 + self.key_E) % _MODULUS
        return (mixed_TE * 16807 % _MODULUS).float() / _MODULUS
