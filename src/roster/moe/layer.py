"""MoE: a router and its experts as a drop-in feed-forward block.

Shape legend: B batch rows, S tokens per row, D model width, T = B * S.
"""

from __future__ import annotations

from torch import Tensor, nn

from roster.context import Context
from roster.router import Router


class MoE(nn.Module):
    """A mixture-of-experts feed-forward block.

    Args:
        router: decides who is on duty.
        experts: `(rows_RD grouped by expert, counts_E) -> rows_RD`; see `Route.through`.
    """

    def __init__(self, router: Router, experts: nn.Module):
        super().__init__()
        self.router, self.experts = router, experts

    def forward(self, x_BSD: Tensor, context: Context | None = None) -> Tensor:
        """Applies the chosen experts.

        Args:
            x_BSD: hidden states [B, S, D].
            context: what the router may know; by default that no token is padding.

        Returns:
            [B, S, D]; zero for a token that nobody serves, so that only the residual passes it on.
        """
        context = Context.of(x_BSD) if context is None else context
        x_TD = x_BSD.reshape(-1, x_BSD.shape[-1])
        route = self.router(x_TD, context)
        y_TD: Tensor = route.through(self.experts, x_TD).view_as(x_BSD)
        return y_TD
