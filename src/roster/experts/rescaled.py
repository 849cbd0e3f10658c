"""LoRA experts of one linear layer, some of which rescale the layer's own output row by row besides, as DoRA does.

Equation: y += (sum_e g_e a_e) * (y0 - b) + sum_e g_e s_e B_e A_e x, y0 the layer's output, b its bias, a_e the gain of
    expert e (its row scale less one; zero for a plain LoRA), g_e the gate of the route.
Relation to its siblings: `low_rank` is the same without gains; `scaling` rescales and adds nothing.

Shape legend: T tokens, E experts, I in_features, O out_features.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from roster.experts.low_rank import LowRankExperts
from roster.route import AnyRoute


class RescaledExperts(LowRankExperts):
    """See above. Nothing here trains.

    Args:
        factors: per expert (A [r, I], B [O, r], scale), or None for an expert without an update here.
        gain_EO: of each expert; zero for one that rescales nothing.
        bias_O: of the base's layer, which is not rescaled; None where it has none.
    """

    gain_EO: Tensor
    bias_O: Tensor | None

    def __init__(self, factors: Sequence[tuple[Tensor, Tensor, float] | None], gain_EO: Tensor, bias_O: Tensor | None):
        super().__init__(factors)
        self.register_buffer("gain_EO", gain_EO, persistent=False)
        self.register_buffer("bias_O", None if bias_O is None else bias_O.detach().clone(), persistent=False)

    def forward(self, x_TI: Tensor, y_TO: Tensor, route: AnyRoute) -> Tensor:
        """Rescales the base layer's output [T, O] and adds the experts' updates to it."""
        dtype = torch.promote_types(y_TO.dtype, self.gain_EO.dtype)
        own_TO = y_TO.to(dtype) if self.bias_O is None else y_TO.to(dtype) - self.bias_O.to(dtype)
        gain_TO = route.dense().to(device=y_TO.device, dtype=dtype) @ self.gain_EO.to(dtype)
        return super().forward(x_TI, (y_TO + gain_TO * own_TO).to(y_TO.dtype), route)
