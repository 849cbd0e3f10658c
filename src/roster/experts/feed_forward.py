"""What all feed-forward experts have in common: they are stacks of matrices, and dispatch does the rest.

Shape legend: T tokens, R rows grouped by expert, E experts, D model width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.dispatch import Weights, feed_forward, serve
from roster.route import Route


class FeedForwardExperts(nn.Module):
    """Experts that consist of nothing but their `weights`.

    Attributes:
        num_experts: E.
    """

    num_experts: int

    @property
    def weights(self) -> Weights:
        """The matrices of all experts; every kind of expert says what they are."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its weights are")

    def forward(self, rows_RD: Tensor, counts_E: Tensor | Route) -> Tensor:
        """Rows out for rows in; rows behind the last group belong to nobody and come back undefined.

        Called with a route instead of counts: see `serve`.
        """
        if isinstance(counts_E, Route):
            return self.serve(rows_RD, counts_E)
        return feed_forward(rows_RD, counts_E, self.weights)

    def serve(self, x_TD: Tensor, route: Route) -> Tensor:
        """What the experts make of the tokens that a route sends them, summed per token, [T, D]."""
        return serve(x_TD, route, self.weights)


def normal(*shape: int, fan_in: int) -> nn.Parameter:
    """A matrix that keeps the size of what it multiplies."""
    return nn.Parameter(torch.randn(*shape) * fan_in**-0.5)
