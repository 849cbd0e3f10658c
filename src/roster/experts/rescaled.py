"""LoRA experts of one linear layer, some of which rescale the layer's own output row by row besides, as DoRA does, or
rescale its output or its input and do nothing else, as (IA)3 does.

Equation: y += (sum_e g_e a_e) * (y0 - b) + sum_e g_e c_e + W ((sum_e g_e d_e) * x) + sum_e g_e s_e B_e A_e x, y0 the
    layer's output, W and b its weight and bias, a_e the gain of expert e (its row scale less one; zero for a plain
    LoRA), c_e = a_e b for an expert that rescales the bias too, d_e its gain of the input, g_e the gate of the route.
Relation to its siblings: `low_rank` is the same without gains; `scaling` rescales and adds nothing.

Shape legend: T tokens, E experts, I in_features, O out_features.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from roster.experts.low_rank import LowRankExperts
from roster.route import AnyRoute


class RescaledExperts(LowRankExperts):
    """See above. Nothing here trains.

    Args:
        factors: per expert (A [r, I], B [O, r], scale), or None for an expert without an update here.
        gain_EO: of each expert; zero for one that rescales nothing.
        bias_O: of the base's layer; None where it has none.
        with_bias: the experts that rescale the bias, too.
        gain_EI: of what each expert reads, zero for one that reads what is there; None where all do.
        layer: `x -> W x`; needed where inputs are rescaled.
    """

    gain_EO: Tensor
    bias_O: Tensor | None
    shift_EO: Tensor | None
    gain_EI: Tensor | None

    def __init__(
        self,
        factors: Sequence[tuple[Tensor, Tensor, float] | None],
        gain_EO: Tensor,
        bias_O: Tensor | None,
        with_bias: Collection[int] = (),
        gain_EI: Tensor | None = None,
        layer: Callable[[Tensor], Tensor] | None = None,
    ):
        super().__init__(factors)
        serves_E = gain_EO.any(1) if gain_EI is None else gain_EO.any(1) | gain_EI.any(1)
        self.served = frozenset(e for e, rank in enumerate(self.ranks) if rank or serves_E[e])
        shift_EO = None
        if bias_O is not None and with_bias:
            which_E1 = torch.tensor([[float(e in with_bias)] for e in range(len(self.ranks))])
            shift_EO = gain_EO * which_E1 * bias_O.detach().cpu().to(gain_EO)
        self.layer = layer
        self.register_buffer("shift_EO", shift_EO, persistent=False)
        self.register_buffer("gain_EI", gain_EI, persistent=False)
        self.register_buffer("gain_EO", gain_EO, persistent=False)
        self.register_buffer("bias_O", None if bias_O is None else bias_O.detach().clone(), persistent=False)

    def forward(self, x_TI: Tensor, y_TO: Tensor, route: AnyRoute) -> Tensor:
        """Rescales the base layer's output [T, O] and adds the experts' updates to it."""
        dtype = torch.promote_types(y_TO.dtype, self.gain_EO.dtype)
        own_TO = y_TO.to(dtype) if self.bias_O is None else y_TO.to(dtype) - self.bias_O.to(dtype)
        gate_TE = route.dense().to(device=y_TO.device, dtype=dtype)
        total_TO = y_TO + (gate_TE @ self.gain_EO.to(dtype)) * own_TO
        if self.shift_EO is not None:
            total_TO = total_TO + gate_TE @ self.shift_EO.to(dtype)
        if self.gain_EI is not None and self.layer is not None:
            total_TO = total_TO + self.layer(x_TI * (gate_TE @ self.gain_EI.to(dtype)).to(x_TI.dtype))
        return super().forward(x_TI, total_TO.to(y_TO.dtype), route)
