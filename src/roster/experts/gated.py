"""Gated feed-forward experts, all of one width: two matrices side by side, of which one gates the other.

Shape legend: E experts, D model width, F expert width.
"""

from __future__ import annotations

import torch
from torch import nn

from roster.dispatch import Weights
from roster.dispatch.activation import known
from roster.experts.feed_forward import FeedForwardExperts, normal


class Gated(FeedForwardExperts):
    """`(act(x G_e) * (x U_e)) V_e` for the rows of expert e (Shazeer, 2020, arXiv:2002.05202).

    Args:
        num_experts: E.
        width: D.
        hidden: F.
        activation: of the gate: "silu", "gelu", "gelu_tanh", "relu", ... (transformers' names are understood), or of
            both: "clamped_swiglu".
        bias: whether every matrix has one.

    Raises:
        RosterError: no such activation.
    """

    def __init__(self, num_experts: int, width: int, hidden: int, activation: str = "silu", bias: bool = False):
        super().__init__()
        self.num_experts, self.activation, self.bias = num_experts, known(activation, gated=True), bias
        self.gate_EDF = normal(num_experts, width, hidden, fan_in=width)
        self.up_EDF = normal(num_experts, width, hidden, fan_in=width)
        self.down_EFD = normal(num_experts, hidden, width, fan_in=hidden)
        if bias:
            self.gate_bias_EF = nn.Parameter(torch.zeros(num_experts, hidden))
            self.up_bias_EF = nn.Parameter(torch.zeros(num_experts, hidden))
            self.down_bias_ED = nn.Parameter(torch.zeros(num_experts, width))

    @property
    def weights(self) -> Weights:
        """The matrices of all experts."""
        matrices = (self.gate_EDF, self.up_EDF, self.down_EFD)
        biases = (self.gate_bias_EF, self.up_bias_EF, self.down_bias_ED) if self.bias else ()
        return Weights(matrices + biases, self.activation)
