"""Feed-forward experts of different widths (HMoE: Wang et al., 2024, arXiv:2408.10681), without padding on a processor.

Shape legend: E experts, D model width, F hidden units of all experts together, one expert's behind the other's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from roster.dispatch import Weights
from roster.dispatch.activation import known
from roster.errors import RosterError
from roster.experts.feed_forward import FeedForwardExperts, normal


class Ragged(FeedForwardExperts):
    """Experts of which each has its own number of hidden units.

    Dispatch blocks cut views out of the stacks and multiply nothing in vain; other back ends first pad to the widest.

    Args:
        width: D.
        widths: hidden units of each expert.
        activation: see `roster.dispatch.activation`.
        gated: with a gate matrix, as `Gated`; else as `MLP`.
        bias: whether every matrix has one.

    Raises:
        RosterError: no experts, a width below 1, or no such activation.
    """

    def __init__(
        self, width: int, widths: Sequence[int], activation: str = "silu", *, gated: bool = True, bias: bool = False
    ):
        super().__init__()
        if not widths or min(widths) < 1:
            raise RosterError(f"experts of different widths need at least one, of width 1 or more, not {list(widths)}")
        self.num_experts, self.widths = len(widths), tuple(widths)
        self.activation, self.gated, self.bias = known(activation, gated=gated), gated, bias
        total = sum(widths)
        self.first_names = ("gate", "up") if gated else ("up",)
        for name in self.first_names:
            self.register_parameter(f"{name}_FD", normal(total, width, fan_in=width))
        scale_F1 = torch.tensor(self.widths).repeat_interleave(torch.tensor(self.widths))[:, None] ** -0.5
        self.down_FD = nn.Parameter(torch.randn(total, width) * scale_F1)
        if bias:
            for name in self.first_names:
                self.register_parameter(f"{name}_bias_F", nn.Parameter(torch.zeros(total)))
            self.down_bias_ED = nn.Parameter(torch.zeros(len(widths), width))

    @property
    def weights(self) -> Weights:
        """The matrices of all experts."""
        matrices = [*(self.get_parameter(f"{name}_FD") for name in self.first_names), self.down_FD]
        if self.bias:
            matrices += [*(self.get_parameter(f"{name}_bias_F") for name in self.first_names), self.down_bias_ED]
        return Weights(tuple(matrices), self.activation, self.widths)
