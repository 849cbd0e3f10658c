"""Mean weight: the experts' weights, on average, are held near a number (Liu et al., 2025, PSEC, arXiv:2502.05932).

Shape legend: T tokens, E experts.
"""

from __future__ import annotations

from torch import Tensor, nn

from roster.balance.mean import share
from roster.context import Context
from roster.route import AnyRoute


class MeanWeight(nn.Module):
    """`coefficient * ((mean over tokens and experts of g - target)^2 + (mean over tokens of g_own - own_target)^2)`.

    Args:
        target: of the mean of all weights.
        coefficient: weight of the loss.
        own: index of one expert that is held near a number of its own; None for no such expert.
        own_target: that number.
    """

    def __init__(self, target: float, coefficient: float = 1.0, own: int | None = None, own_target: float = 1.0):
        super().__init__()
        self.target, self.coefficient, self.own, self.own_target = target, coefficient, own, own_target

    def forward(self, route: AnyRoute, context: Context) -> Tensor:
        """A scalar; padding is in no mean."""
        gate_TE = route.dense()
        mean_E = share(gate_TE.sum(0), context, len(gate_TE))
        loss = (mean_E.mean() - self.target).square()
        if self.own is not None:
            loss = loss + (mean_E[self.own] - self.own_target).square()
        return self.coefficient * loss
