"""ReLU selection: whoever scores above zero serves, with the score as the weight (Wang et al., 2024, ReMoE,
arXiv:2412.14711).

Shape legend: T tokens, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.route import Route


class ReLU(nn.Module):
    """`weights = max(scores, 0)`: differentiable everywhere that matters, and the number of experts varies."""

    reads_bias = False

    def forward(self, scores_TE: Tensor, context: Context, bias_E: Tensor | None = None) -> Route:
        """A route with zero to E experts per token."""
        gate_TE = torch.relu(scores_TE)
        return Route.from_gates(gate_TE, gate_TE > 0)
