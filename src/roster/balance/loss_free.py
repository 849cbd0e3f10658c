"""Loss-free balancing: a bias on who is chosen, moved against the load after every step (Wang et al., 2024,
arXiv:2408.15664; used by DeepSeek-V3).

Shape legend: E experts.
"""

from __future__ import annotations

import torch
from torch import nn

from roster.context import Context
from roster.processes import total
from roster.route import AnyRoute


class LossFreeBias(nn.Module):
    """`bias_e += rate * sign(mean load - load_e)` after every optimiser step; gradients never see it.

    In training every forward call adds to `load_E`; whoever runs the optimiser advances the model once per step
    (see `roster.train.schedule`). Activation recomputation counts a call twice for all experts alike, which no sign
    sees.

    Args:
        num_experts: E.
        rate: how far the bias moves per step.
    """

    bias_E: torch.Tensor
    load_E: torch.Tensor

    def __init__(self, num_experts: int, rate: float = 1e-3):
        super().__init__()
        self.rate = rate
        self.register_buffer("bias_E", torch.zeros(num_experts))
        self.register_buffer("load_E", torch.zeros(num_experts), persistent=False)

    def forward(self, route: AnyRoute, context: Context) -> None:
        """Counts the load, of all processes that share the batch; adds no loss."""
        if self.training:
            self.load_E += total(route.counts_E, context.processes).to(self.load_E)

    @torch.no_grad()
    def advance(self, progress: float) -> None:
        """Moves the bias and forgets the load."""
        self.bias_E += self.rate * torch.sign(self.load_E.mean() - self.load_E)
        self.load_E.zero_()
