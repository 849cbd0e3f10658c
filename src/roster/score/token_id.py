"""Token-id score: a fixed table says which expert a token of the vocabulary belongs to (Roller et al., 2021, Hash
Layers, arXiv:2106.04426; dos Santos et al., 2023, MoWE, arXiv:2311.10768).

Shape legend: T tokens, E experts, V tokens of the vocabulary.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roster.context import Context
from roster.errors import RosterError


class TokenTable(nn.Module):
    """`scores_e = 1` for the expert that the token id belongs to, else 0; hidden states are not read.

    Args:
        expert_V: expert of each token id, int64.
        num_experts: E.
        needed_by: who to name in the error when there are no token ids.
    """

    expert_V: Tensor

    def __init__(self, expert_V: Tensor, num_experts: int, needed_by: str = "this router"):
        super().__init__()
        if expert_V.numel() and not 0 <= int(expert_V.min()) <= int(expert_V.max()) < num_experts:
            raise RosterError(f"{needed_by}: token ids belong to experts 0 to {num_experts - 1}, not {expert_V.max()}")
        self.num_experts, self.needed_by = num_experts, needed_by
        self.register_buffer("expert_V", expert_V.clone())

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """Scores [T, E]."""
        if context.input_ids_BS is None:
            raise RosterError(f"{self.needed_by} routes by token ids, but the model was called with embeddings")
        expert_T = self.expert_V[context.input_ids_BS.reshape(-1).to(self.expert_V.device)]
        return F.one_hot(expert_T, self.num_experts).to(x_TD.dtype)


def even_buckets(counts_V: Sequence[float], num_experts: int, seed: int = 0) -> Tensor:
    """Experts for token ids so that all are read about equally often: the most frequent id goes first, each to the
    expert with the least load so far.

    Args:
        counts_V: how often each token id occurs; equal counts spread the ids evenly, in an order drawn by the seed.
        num_experts: E.
        seed: of the order of ids that are equally frequent.

    Returns:
        The expert of each token id, int64 [V].
    """
    shuffled = torch.randperm(len(counts_V), generator=torch.Generator().manual_seed(seed)).tolist()
    loads = [(0.0, expert) for expert in range(num_experts)]
    expert_V = torch.zeros(len(counts_V), dtype=torch.int64)
    for token in sorted(shuffled, key=lambda token: -counts_V[token]):
        load, expert = heapq.heappop(loads)
        expert_V[token] = expert
        # An id that never occurred still takes up room: its expert must not collect all such ids.
        heapq.heappush(loads, (load + max(counts_V[token], 1e-6), expert))
    return expert_V
