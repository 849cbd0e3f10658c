"""Allotted: the number of experts of a token follows from its importance to the others (Akhavan Aghdam et al., 2024,
DA-MoE, arXiv:2409.06669).

Shape legend: B batch rows, H heads, S tokens of this call, L tokens so far (those of this call last), T = B * S,
E experts, K chosen.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError
from roster.route import Route

ATTENTION = "attention"
"""Where the weights of the latest attention block lie in `context.memory`, [B, H, S, L]."""


class Allotted(nn.Module):
    """`K_t = ceil(most * importance_t / largest importance of the row)`; the K_t best experts, by softmax over them.

    Args:
        most: experts of the most important token.
    """

    reads_bias = True

    def __init__(self, most: int):
        super().__init__()
        if most < 1:
            raise RosterError(f"the most important token needs at least one expert, not {most}")
        self.most = most

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> Route:
        """A route with `most` slots per token, of which each token takes one or more."""
        scores_TE = scores_TE.float()
        E = scores_TE.shape[1]
        importance_BS = importance(context).to(scores_TE)
        share_BS = importance_BS / importance_BS.amax(1, keepdim=True).clamp_min(1e-12)
        # Nothing that round-off adds may buy an expert.
        count_T1 = (self.most * share_BS - 1e-4).ceil().clamp(1, self.most).reshape(-1, 1)
        ranked_TE = scores_TE if bias_E is None else scores_TE + bias_E
        expert_TK = ranked_TE.topk(min(self.most, E), dim=1).indices
        free_TK = torch.arange(expert_TK.shape[1], device=expert_TK.device) >= count_T1
        weight_TK = scores_TE.gather(1, expert_TK).masked_fill(free_TK, -torch.inf).softmax(1)
        return Route.slots(expert_TK.masked_fill(free_TK, E), weight_TK, E)


def importance(context: Context) -> Tensor:
    """How much attention each token of this call gets from those that see it, relative to even attention, [B, S].

    A query's weights are multiplied by the number of tokens it sees, and a token's mean is over those that see it:
    otherwise, where only earlier tokens are seen, a token would count by its position. Padding neither gives nor gets.

    Raises:
        RosterError: nobody has kept the attention weights.
    """
    weight_BHSL = context.memory.get(ATTENTION)
    if weight_BHSL is None:
        raise RosterError("routing by importance needs the attention weights of the layer, and there are none")
    weight_BSL = weight_BHSL.detach().mean(1, dtype=torch.float32)
    if context.mask_BS is not None:
        weight_BSL = weight_BSL * context.mask_BS[:, :, None].to(weight_BSL)
    sees_BSL = weight_BSL.sign()  # 1 where there is any
    relative_BL = torch.einsum("bs,bsl->bl", sees_BSL.sum(2), weight_BSL)
    importance_BL = relative_BL / sees_BSL.sum(1).clamp_min(1)
    latest_BL: Tensor = importance_BL[:, -context.length :]
    return latest_BL
