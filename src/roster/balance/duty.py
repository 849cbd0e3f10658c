"""Duty: holds the work of each expert to a share of the tokens (mixture of depths, routers that skip).

Shape legend: T tokens, E experts.
"""

from __future__ import annotations

from torch import Tensor, nn

from roster.balance.mean import share
from roster.context import Context
from roster.errors import RosterError
from roster.route import AnyRoute


class Duty(nn.Module):
    """`coefficient * sum_e |mean over tokens of gate_e - share|`, with the gates that the route carries.

    Where a gate is hard but trained straight through, the loss is of the hard share and its gradient goes to the
    scores. Padding is left out.

    Args:
        share: of the tokens that an expert is to serve, in [0, 1].
        coefficient: weight of the loss.
    """

    def __init__(self, share: float, coefficient: float = 1.0):
        super().__init__()
        if not 0 <= share <= 1:
            raise RosterError(f"duty: the share of tokens that an expert serves must be in 0..1, not {share}")
        self.share, self.coefficient = share, coefficient

    def forward(self, route: AnyRoute, context: Context) -> Tensor:
        """A scalar."""
        gate_TE = route.dense()
        share_E = share(gate_TE.sum(0), context, len(gate_TE))
        return self.coefficient * (share_E - self.share).abs().sum()
