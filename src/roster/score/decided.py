"""Decided score: what was decided for a whole row before the first layer, handed to each of its tokens.

A decision names K experts and their weights per row; a weight of zero is nobody's. What decides is no part of a router:
it may read other things than the tokens that are routed (see `roster.routed.deciding`).

Shape legend: B batch rows, T tokens, E experts, K experts on duty.
"""

from __future__ import annotations

from torch import Tensor, nn

from roster.context import DECISION, Context


class Decided(nn.Module):
    """`scores = the weights decided on`, zero for everybody else.

    Args:
        num_experts: E.
    """

    reads_tokens = False

    def __init__(self, num_experts: int):
        super().__init__()
        self.num_experts = num_experts

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        """Scores [T, E]."""
        expert_BK, weight_BK = context.memory[DECISION].unbind(1)
        scores_BE = weight_BK.new_zeros(len(weight_BK), self.num_experts)
        scores_BE = scores_BE.scatter_add(1, expert_BK.long(), weight_BK)
        return context.per_token(scores_BE.to(x_TD.device))
