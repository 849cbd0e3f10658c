"""SparseMixer-v2: experts are drawn in training, and the router's gradient estimates that of the draw (Liu et al.,
2024, GRIN, arXiv:2409.12136).

Shape legend: T tokens, E experts, K chosen.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError
from roster.route import Route


class SparseMixer(nn.Module):
    """Experts are drawn by a softmax over those that come near the best, and weighted by their probability.

    The gradient wanted is `sum_e loss(e) dp_e / dscores`. The loss with expert e is seen through its derivative: the
    change from leaving the expert out to its weight p is the integral of the derivative along the way, which two
    points give exactly when it is a polynomial of degree two: 3/4 at a third of the way and 1/4 at its end. So
    a drawn expert gets the weight p / 3 with chance 3/4 and p with chance 1/4, while the gradient passes as if it
    were p. The best expert has the weight p always, unless `spare_best` is off.

    Args:
        k: experts per token; each is drawn among those not yet taken.
        jitter: an expert takes part in the draw when it is behind the best by at most 2 * jitter of their size.
        spare_best: see above.
    """

    reads_bias = False

    def __init__(self, k: int = 2, jitter: float = 0.1, spare_best: bool = True):
        super().__init__()
        if k < 1:
            raise RosterError(f"SparseMixer needs k >= 1, not {k}")
        if not jitter > 0:
            raise RosterError(f"SparseMixer needs jitter above 0, not {jitter}: nobody but the best would be drawn")
        self.k, self.jitter, self.spare_best = k, jitter, spare_best

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> Route:
        """A route with k slots per token."""
        E = scores_TE.shape[1]
        open_TE, experts, weights = scores_TE.float(), [], []
        for _ in range(min(self.k, E)):
            expert_T1, weight_T1 = self._draw(open_TE)
            experts.append(expert_T1)
            weights.append(weight_T1)
            open_TE = open_TE.scatter(1, expert_T1, -torch.inf)
        return Route.slots(torch.cat(experts, 1), torch.cat(weights, 1), E, full=True)

    def _draw(self, scores_TE: Tensor) -> tuple[Tensor, Tensor]:
        best_T1, best_expert_T1 = scores_TE.max(1, keepdim=True)
        with torch.no_grad():
            size_TE = torch.maximum(scores_TE.abs(), best_T1.abs()).clamp_min(1e-9)
            far_TE = best_T1 - scores_TE > 2 * self.jitter * size_TE
        masked_TE = scores_TE.masked_fill(far_TE | scores_TE.isinf(), -torch.inf)
        prob_TE = masked_TE.softmax(1)
        if not self.training:
            return best_expert_T1, prob_TE.gather(1, best_expert_T1)
        noise_TE = -torch.empty_like(masked_TE).exponential_().log()
        expert_T1 = (masked_TE.detach() + noise_TE).argmax(1, keepdim=True)
        prob_T1 = prob_TE.gather(1, expert_T1)
        whole_T1 = torch.rand_like(prob_T1) > 0.75
        if self.spare_best:
            whole_T1 = whole_T1 | (expert_T1 == best_expert_T1)
        part_T1 = torch.where(whole_T1, 1.0, 1.0 / 3.0)
        # The value is a part of p, the gradient that of p.
        return expert_T1, prob_T1 + (part_T1 - 1.0) * prob_T1.detach()
