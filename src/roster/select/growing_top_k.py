"""Growing top-k: the number of experts per token rises over the training, and is free to choose afterwards (Chen et
al., 2023, SMoE-Dropout, arXiv:2303.01610).

Shape legend: T tokens, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError
from roster.route import Route


class GrowingTopK(nn.Module):
    """The k best experts of each token, weighted by a softmax over them; k rises evenly from `start` to `end`.

    `k_now` is kept with the weights and may be set to any number at evaluation. It lives on the device, so that no
    forward call waits for it; slots above it hold nobody. On processors, where nothing waits, there are none above it.

    Args:
        start, end: k at the beginning and at the end of the training.
    """

    reads_bias = True
    k_now: Tensor

    def __init__(self, start: int, end: int):
        super().__init__()
        if not 1 <= start <= end:
            raise RosterError(f"growing top-k needs 1 <= start <= end, not {start} and {end}")
        self.start, self.end = start, end
        self.register_buffer("k_now", torch.tensor(start))

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> Route:
        """A route with up to `end` slots per token, of which `k_now` are taken."""
        scores_TE = scores_TE.float()
        ranked_TE = scores_TE if bias_E is None else scores_TE + bias_E
        known = self.k_now.device.type == "cpu" and not torch.compiler.is_compiling()
        most = int(self.k_now) if known else self.end
        expert_TK = ranked_TE.topk(min(most, scores_TE.shape[1]), dim=1).indices
        free_K = torch.arange(expert_TK.shape[1], device=expert_TK.device) >= self.k_now
        weight_TK = scores_TE.gather(1, expert_TK).masked_fill(free_K, -torch.inf).softmax(1)
        return Route.slots(expert_TK.masked_fill(free_K, scores_TE.shape[1]), weight_TK, scores_TE.shape[1])

    def advance(self, progress: float) -> None:
        """Raises k."""
        self.k_now.fill_(self.start + round((self.end - self.start) * progress))
