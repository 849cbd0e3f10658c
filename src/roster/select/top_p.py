"""Top-p selection: the smallest set of experts whose probabilities reach p (Huang et al., 2024, arXiv:2403.07652).

Shape legend: T tokens, E experts.
"""

from __future__ import annotations

from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError
from roster.route import Route


class TopP(nn.Module):
    """An uncertain token gets more experts, a certain one as few as one.

    Args:
        p: probability mass to reach, in (0, 1].
        renormalize: whether the weights of the chosen sum to 1.
    """

    reads_bias = True

    def __init__(self, p: float, renormalize: bool = True):
        super().__init__()
        if not 0.0 < p <= 1.0:
            raise RosterError(f"top-p needs 0 < p <= 1, not {p}")
        self.p, self.renormalize = p, renormalize

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> Route:
        """A route with one to E experts per token."""
        prob_TE = scores_TE.float().softmax(1)
        ranked_TE = prob_TE if bias_E is None else (scores_TE.float() + bias_E).softmax(1)
        sorted_TE, order_TE = ranked_TE.sort(dim=1, descending=True, stable=True)
        # An expert is needed while those before it have not reached p; the first always is.
        needed_TE = sorted_TE.cumsum(1) - sorted_TE < self.p
        chosen_TE = needed_TE.scatter(1, order_TE, needed_TE)
        gate_TE = prob_TE * chosen_TE
        if self.renormalize:
            gate_TE = gate_TE / gate_TE.sum(1, keepdim=True)
        return Route.from_gates(gate_TE, chosen_TE)
