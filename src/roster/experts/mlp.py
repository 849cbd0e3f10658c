"""Plain feed-forward experts, all of one width: two matrices with an activation between them.

Shape legend: E experts, D model width, F expert width.
"""

from __future__ import annotations

import torch
from torch import nn

from roster.dispatch import Weights
from roster.dispatch.activation import known
from roster.experts.feed_forward import FeedForwardExperts, normal


class MLP(FeedForwardExperts):
    """`act(x U_e + b_e) V_e + c_e` for the rows of expert e: the block of GPT-2, Phi and BERT, and of Switch ("relu",
    no biases).

    Args:
        num_experts: E.
        width: D.
        hidden: F.
        activation: "gelu", "gelu_tanh", "relu", "silu", ...; transformers' names are understood.
        bias: whether both matrices have one.

    Raises:
        RosterError: no such activation.
    """

    def __init__(self, num_experts: int, width: int, hidden: int, activation: str = "gelu", bias: bool = True):
        super().__init__()
        self.num_experts, self.activation, self.bias = num_experts, known(activation, gated=False), bias
        self.up_EDF = normal(num_experts, width, hidden, fan_in=width)
        self.down_EFD = normal(num_experts, hidden, width, fan_in=hidden)
        if bias:
            self.up_bias_EF = nn.Parameter(torch.zeros(num_experts, hidden))
            self.down_bias_ED = nn.Parameter(torch.zeros(num_experts, width))

    @property
    def weights(self) -> Weights:
        """The matrices of all experts."""
        biases = (self.up_bias_EF, self.down_bias_ED) if self.bias else ()
        return Weights((self.up_EDF, self.down_EFD, *biases), self.activation)
