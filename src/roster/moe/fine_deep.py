"""Fine and deep: a dense block cut into sub-layers of small experts, all at work (Pan et al., 2025, arXiv:2502.12928).

Shape legend: B batch rows, S tokens per row, T = B * S, D model width, E experts of one sub-layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.router import Router


class FineDeep(nn.Module):
    """`h <- h + sum_e r_e E_e(norm(h))`, sub-layer after sub-layer; r is routed from the outputs of the experts.

    Args:
        width: D.
        layers: experts of each sub-layer.
        routers: one per sub-layer; they read the outputs of all its experts, [T, E * D].
    """

    def __init__(self, width: int, layers: Sequence[nn.Module], routers: Sequence[Router]):
        super().__init__()
        self.layers, self.routers = nn.ModuleList(layers), nn.ModuleList(routers)
        self.norms = nn.ModuleList(nn.RMSNorm(width, eps=1e-6) for _ in range(len(layers) - 1))

    def forward(self, x_BSD: Tensor, context: Context) -> Tensor:
        """[B, S, D] -> [B, S, D]: what the sub-layers add."""
        x_TD = x_BSD.reshape(-1, x_BSD.shape[-1])
        h_TD = x_TD
        for depth, (experts, router) in enumerate(zip(self.layers, self.routers, strict=True)):
            output_TED = every(experts, h_TD if depth == 0 else self.norms[depth - 1](h_TD))
            gate_TE = router(output_TED.flatten(1), context).dense()
            h_TD = h_TD + (gate_TE[..., None].to(output_TED.dtype) * output_TED).sum(1)
        return (h_TD - x_TD).view_as(x_BSD)


def every(experts: nn.Module, x_TD: Tensor) -> Tensor:
    """The output of every expert for every token, [T, E, D]."""
    T, E = len(x_TD), cast(int, experts.num_experts)
    counts_E = torch.full((E,), T, device=x_TD.device)
    y_ETD: Tensor = experts(x_TD.repeat(E, 1), counts_E).view(E, T, -1).transpose(0, 1)
    return y_ETD
