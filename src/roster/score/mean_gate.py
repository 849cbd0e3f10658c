"""Mean gate: a small network scores each token of the prompt, and a row's scores are their mean.

The mean of the scores, not the score of the mean: between them lies the network's kink.

Shape legend: B batch rows, S tokens of this call, T = B * S, D width, H hidden width, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roster.context import Context
from roster.score.prompt_pooled import PromptPooled


class MeanGate(PromptPooled):
    """`scores = mean over the prompt of W2 relu(W1 x + b1) + b2`, the same for all tokens of a row.

    Args:
        width: D.
        num_experts: E.
        key: under which the row's scores follow the cache; different at every site.
        hidden: H; 0 for D.
        start: b2 at first, so that all experts begin with this score.
        std: of W1 and W2 at first.
    """

    def __init__(
        self, width: int, num_experts: int, key: str, hidden: int = 0, start: float = 0.0, std: float = 0.01
    ) -> None:
        super().__init__(nn.Identity(), key)
        hidden = hidden or width
        self.in_HD = nn.Parameter(torch.randn(hidden, width) * std)
        self.bias_H = nn.Parameter(torch.zeros(hidden))
        self.out_EH = nn.Parameter(torch.randn(num_experts, hidden) * std)
        self.bias_E = nn.Parameter(torch.full((num_experts,), start))

    def _pooled(self, x_TD: Tensor, context: Context) -> Tensor:
        weight_BS1 = context.prompt_mask(x_TD.device)[..., None].float()
        hidden_TH = F.relu(F.linear(x_TD, self.in_HD.to(x_TD.dtype), self.bias_H.to(x_TD.dtype)))
        scores_TE = F.linear(hidden_TH, self.out_EH.to(x_TD.dtype), self.bias_E.to(x_TD.dtype)).float()
        scores_BSE = scores_TE.view(context.batch, context.length, -1)
        return (scores_BSE * weight_BS1).sum(1) / weight_BS1.sum(1).clamp_min(1.0)
