"""Top-k of gates: a function of each score by itself, to which a bias is added for the choice (Wang et al., 2024,
arXiv:2408.15664, eq. 3; DeepSeek-AI, 2024, DeepSeek-V3, arXiv:2412.19437, eq. 13 to 16).

Shape legend: T tokens, E experts, K chosen.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError, nearest
from roster.route import Route

_GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "softmax": lambda scores_TE: scores_TE.softmax(1),
}


class GatedTopK(nn.Module):
    """The k experts with the largest `gate + bias`, weighted by the gate alone.

    `TopK` adds the bias to the scores instead, whose scale the bias then has to follow.

    Args:
        k: experts per token, at least 1; with fewer experts than k, all serve.
        gate: "sigmoid" or "softmax" of the scores.
        normalize: whether a token's weights are made to sum to 1.
    """

    reads_bias = True

    def __init__(self, k: int, gate: str = "sigmoid", normalize: bool = False):
        super().__init__()
        if k < 1:
            raise RosterError(f"gated top-k needs k >= 1, not {k}")
        if gate not in _GATES:
            raise RosterError(f"gated top-k: unknown gate {gate!r}: {nearest(gate, _GATES)}")
        self.k, self.gate, self.normalize = k, gate, normalize

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> Route:
        """A route with k slots per token."""
        E = scores_TE.shape[1]
        gate_TE = _GATES[self.gate](scores_TE.float())
        ranked_TE = gate_TE if bias_E is None else gate_TE + bias_E
        expert_TK = ranked_TE.topk(min(self.k, E), dim=1, sorted=False).indices
        weight_TK = gate_TE.gather(1, expert_TK)
        if self.normalize:
            weight_TK = weight_TK / weight_TK.sum(1, keepdim=True).clamp_min(1e-20)
        return Route.slots(expert_TK, weight_TK, E, full=True)
