"""Scores that something earlier in this forward call has already computed, for all sites at once (X-LoRA).

Shape legend: T tokens, N sites, E experts.
"""

from __future__ import annotations

from torch import Tensor, nn

from roster.context import Context


class FromMemory(nn.Module):
    """Reads `context.memory[key]`, [T, N, E], at one index.

    Args:
        key: name of the entry.
        index: which of the N sites this is.
    """

    def __init__(self, key: str, index: int):
        super().__init__()
        self.key, self.index = key, index

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """Scores [T, E]."""
        scores_TE: Tensor = context.memory[self.key][:, self.index].to(x_TD.device)
        return scores_TE
