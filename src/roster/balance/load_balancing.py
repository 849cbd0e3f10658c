"""Load-balancing loss of the Switch Transformer (Fedus, Zoph and Shazeer, 2021, arXiv:2101.03961, eq. 4).

Shape legend: T tokens, E experts.
"""

from __future__ import annotations

from torch import Tensor, nn

from roster.balance.mean import over_tokens, share
from roster.context import Context
from roster.route import AnyRoute, scores_of


class LoadBalancing(nn.Module):
    """`coefficient * E * sum_e f_e P_e`, which is `coefficient * (experts per token)` when all is even.

    `f_e` is the share of tokens that expert e serves, `P_e` its mean router probability; padding is in neither.
    With more than one expert per token `f` sums to that number, as in transformers' `load_balancing_loss_func`.

    Args:
        coefficient: weight of the loss.
    """

    def __init__(self, coefficient: float = 0.01):
        super().__init__()
        self.coefficient = coefficient

    def forward(self, route: AnyRoute, context: Context) -> Tensor:
        """A scalar."""
        prob_TE = scores_of(route).float().softmax(1)
        T, E = prob_TE.shape
        prob_E = over_tokens(prob_TE, context)
        served_E = share(route.counts_E.to(prob_E), context, T)
        return self.coefficient * E * (served_E * prob_E).sum()
