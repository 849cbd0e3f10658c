"""Sinkhorn: in training the choice is made on scores to which entropic optimal transport has given even loads (Clark
et al., 2022, S-BASE, arXiv:2202.01169, following Sinkhorn, 1967).

Shape legend: T tokens, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.errors import RosterError
from roster.route import AnyRoute

_BETWEEN = 4  # iterations on scaled probabilities between two exact ones: as many as never leave float32's range


class Sinkhorn(nn.Module):
    """Another selection, which in training ranks experts by `scores + v`.

    The transport plan with even loads is `exp(scores / temperature + u_t + v_e / temperature)`: along a token it
    differs from the scores by v alone, so the plan is a bias like that of loss-free balancing, solved for in every
    call. Weights stay those of the scores; at evaluation there is no bias.

    Args:
        select: any part that reads a bias.
        iterations: of the alternating normalisation.
        temperature: of the plan; lower comes closer to a balanced assignment and takes more iterations.
    """

    reads_bias = False

    def __init__(self, select: nn.Module, iterations: int = 20, temperature: float = 0.1):
        super().__init__()
        if not getattr(select, "reads_bias", False):
            raise RosterError(f"Sinkhorn steers by a bias, but {type(select).__name__} reads none")
        if iterations < 1:
            raise RosterError(f"Sinkhorn needs at least one iteration, not {iterations}")
        if not temperature > 0:
            raise RosterError(f"Sinkhorn needs a temperature above 0, not {temperature}")
        self.select, self.iterations, self.temperature = select, iterations, temperature

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> AnyRoute:
        """The other selection's route."""
        bias_E = self.bias(scores_TE, context) if self.training else None
        route: AnyRoute = self.select(scores_TE, context, bias_E)
        return route

    @torch.no_grad()
    def bias(self, scores_TE: Tensor, context: Context) -> Tensor:
        """v [E], for which the plan of the real tokens has even loads."""
        ratio_TE = scores_TE.float() / self.temperature
        share_T = ratio_TE.new_ones(len(ratio_TE)) if context.mask_T is None else context.mask_T.to(ratio_TE)
        share_T = share_T / share_T.sum().clamp_min(1.0)
        v_E = ratio_TE.new_zeros(ratio_TE.shape[1])
        for done in range(0, self.iterations, _BETWEEN):
            plan_TE = (ratio_TE + v_E).softmax(1)
            scale_E = torch.ones_like(v_E)
            for _ in range(min(_BETWEEN, self.iterations - done)):
                load_E = scale_E * ((share_T / (plan_TE @ scale_E)) @ plan_TE)
                scale_E = scale_E / (load_E * len(v_E)).clamp_min(1e-9)
            v_E = v_E + scale_E.log()
        return v_E * self.temperature
