"""A trained head that reads each prompt once and weighs all experts for it, at every layer alike.

Shape legend: B batch rows, S tokens, D width, F width of the hidden layer, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from roster.auto.features import POOLINGS
from roster.context import Context
from roster.routed.one_block import block_of
from roster.router import InFloat32

_GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda scores_BE: scores_BE.softmax(1),
    "none": lambda scores_BE: scores_BE,
}


class PromptGate(InFloat32):
    """Decides [B, 2, E]: every expert, and its weight, `gate(W act(U q + b) + c)` of the prompt's mean hidden state q.

    Args:
        width: D.
        num_experts: E.
        depth: blocks of the base.
        layer: behind which block prompts are read, counted from 1; None for the last.
        hidden: F; 0 for a linear gate.
        gate: "softmax", or "none": weights of any size and sign.
        start: every weight at the beginning, where the gate is "none".
        needed_by: who to name in the error when there is no such block.
    """

    def __init__(
        self,
        width: int,
        num_experts: int,
        depth: int,
        layer: int | None = None,
        hidden: int = 0,
        gate: str = "softmax",
        start: float = 0.0,
        needed_by: str = "this recipe",
    ):
        super().__init__()
        self.blocks = (block_of(layer, depth, needed_by),)
        self.gate = gate
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.reads = nn.Sequential(nn.Linear(width, hidden), nn.ReLU()) if hidden else nn.Identity()
        self.weight_EF = nn.Parameter(torch.randn(num_experts, hidden or width) * 0.02)
        self.bias_E = nn.Parameter(torch.full((num_experts,), start))

    def features(self, hidden: Mapping[int, Tensor], context: Context) -> Tensor:
        """[B, D] from the hidden states [B, S, D] of a call whose prompts are to be decided on."""
        (hidden_BSD,) = hidden.values()
        return POOLINGS["mean"](hidden_BSD, context.prompt_mask(hidden_BSD.device)).to(self.weight_EF.device)

    def forward(self, features_BD: Tensor) -> Tensor:
        """The decision [B, 2, E]."""
        scores_BE = self.reads(self.norm(features_BD)) @ self.weight_EF.T + self.bias_E
        weight_BE = _GATES[self.gate](scores_BE)
        index_BE = torch.arange(weight_BE.shape[1], device=weight_BE.device).expand_as(weight_BE)
        return torch.stack([index_BE.to(weight_BE), weight_BE], dim=1)
