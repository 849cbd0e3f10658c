"""Competing: a mixture whose router learns from a contest among all experts (Pham et al., 2024, CompeteSMoE,
arXiv:2402.02526).

Shape legend: B batch rows, S tokens per row, D model width, T = B * S, E experts.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from roster.balance.mean import over_tokens
from roster.context import Context
from roster.errors import RosterError
from roster.moe.layer import MoE
from roster.route import AnyRoute
from roster.router import Router


class Competing(MoE):
    """An `MoE` that now and then, in training, lets every expert answer every token.

    In such a call the strength of an answer, `||E_e(x)||`, is the expert's score; the router's own selection chooses
    and weighs the winners by it, and the softmax of the router's scores is drawn to these weights by their mean squared
    difference. In all other calls, and always at evaluation, the router decides alone.

    Args:
        router, experts: as in `MoE`.
        rate: share of the training calls in which experts compete.
        distill: weight of the loss that teaches the router.
    """

    def __init__(self, router: Router, experts: nn.Module, rate: float, distill: float):
        super().__init__(router, experts)
        if not 0.0 <= rate <= 1.0:
            raise RosterError(f"competing: rate must be between 0 and 1, not {rate}")
        self.rate, self.distill = rate, distill

    def forward(self, x_BSD: Tensor, context: Context | None = None) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        if not self.training or float(torch.rand(())) >= self.rate:
            return super().forward(x_BSD, context)
        context = Context.of(x_BSD) if context is None else context
        x_TD = x_BSD.reshape(-1, x_BSD.shape[-1])
        answers_ETD, strength_TE = self.contest(x_TD)
        predicted_TE = self.router(x_TD, context).scores_TE
        gate_TE = self.winners(strength_TE, context).dense()
        missed_T = (predicted_TE.float().softmax(1) - gate_TE.detach()).square().mean(1)
        context.add_loss(self.router.site, self.distill * over_tokens(missed_T, context))
        return torch.einsum("te,etd->td", gate_TE.to(answers_ETD.dtype), answers_ETD).view_as(x_BSD)

    def contest(self, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Every expert's answer to every token [E, T, D], and its strength [T, E]."""
        E, T = cast(int, self.experts.num_experts), x_TD.shape[0]
        counts_E = torch.full((E,), T, device=x_TD.device)
        answers_ETD = self.experts(x_TD.repeat(E, 1), counts_E).view(E, T, -1)
        return answers_ETD, torch.linalg.vector_norm(answers_ETD.float(), dim=2).T

    def winners(self, strength_TE: Tensor, context: Context) -> AnyRoute:
        """The route that the contest leads to."""
        route: AnyRoute = self.router.select(strength_TE, context, None)
        return route if context.mask_T is None else route.keep(context.mask_T.to(strength_TE.device))
