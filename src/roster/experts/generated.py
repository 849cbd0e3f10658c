"""LoRA experts that nobody stores: one small network writes the factors of every expert at every layer (Karimi Mahabadi
et al., 2021, HyperFormer, arXiv:2106.04489).

Shape legend: B batch rows, S tokens, D model width, T tokens, E experts, N layers that are adapted, V width of a
vector, H hidden units, r rank, I in_features, O out_features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roster.context import Context
from roster.route import AnyRoute


class Hypernetwork(nn.Module):
    """`A_en = W_A h, B_en = W_B h` with `h = norm(U relu(V [t_e; l_n]))`: t_e of the expert, l_n of the layer.

    It stands in the mixture's head, and is the same for all layers; W_A and W_B are shared by layers of one size. B
    begins at zero, so that nothing is changed yet.

    Args:
        num_experts: E.
        num_sites: N.
        width: V.
        hidden: H.
    """

    def __init__(self, num_experts: int, num_sites: int, width: int = 64, hidden: int = 128):
        super().__init__()
        self.task_EV = nn.Parameter(torch.randn(num_experts, width))
        self.site_NV = nn.Parameter(torch.randn(num_sites, width))
        self.mix = nn.Sequential(nn.Linear(2 * width, hidden), nn.ReLU(), nn.Linear(hidden, width), nn.LayerNorm(width))
        self.A, self.B = nn.ParameterDict(), nn.ParameterDict()

    def admit(self, in_features: int, out_features: int, rank: int) -> None:
        """Makes what writes factors of these sizes, unless it is there."""
        like, V = self.task_EV, self.task_EV.shape[1]
        if f"{rank}x{in_features}" not in self.A:
            weight = torch.randn(rank * in_features, V, device=like.device) * (V * in_features) ** -0.5
            self.A[f"{rank}x{in_features}"] = nn.Parameter(weight)
        if f"{out_features}x{rank}" not in self.B:
            weight = torch.zeros(out_features * rank, V, device=like.device)
            self.B[f"{out_features}x{rank}"] = nn.Parameter(weight)

    def factors(self, site: int, in_features: int, out_features: int, rank: int) -> tuple[Tensor, Tensor]:
        """(A [E, r, I], B [E, O, r]) of all experts at one layer."""
        site_EV = self.site_NV[site].expand_as(self.task_EV)
        h_EV = self.mix(torch.cat([self.task_EV, site_EV], dim=1))
        A_ErI = (h_EV @ self.A[f"{rank}x{in_features}"].T).view(-1, rank, in_features)
        return A_ErI, (h_EV @ self.B[f"{out_features}x{rank}"].T).view(-1, out_features, rank)

    def forward(self, hidden_BSD: Tensor, context: Context) -> Tensor:
        """As a head it changes nothing: layers ask it for their factors."""
        return hidden_BSD


class GeneratedExperts(nn.Module):
    """`y += sum_e g_e scale B_e A_e x`, with the factors that a hypernetwork writes.

    Args:
        net: which writes them; it belongs to the head, and is no part of this module.
        site: which of its layers this is.
        in_features, out_features, rank: I, O and r.
        scale: of every update.
    """

    def __init__(self, net: Hypernetwork, site: int, in_features: int, out_features: int, rank: int, scale: float):
        super().__init__()
        net.admit(in_features, out_features, rank)
        self._net = [net]  # in a list, so that it is not registered a second time
        self.sizes, self.scale = (site, in_features, out_features, rank), scale

    @property
    def num_experts(self) -> int:
        """E."""
        return len(self._net[0].task_EV)

    def forward(self, x_TI: Tensor, y_TO: Tensor, route: AnyRoute) -> Tensor:
        """Adds the experts' update to the base layer's output [T, O]."""
        A_ErI, B_EOr = (each.to(x_TI.device) for each in self._net[0].factors(*self.sizes))
        dtype = torch.promote_types(x_TI.dtype, A_ErI.dtype)
        gate_TE = route.dense().to(device=x_TI.device, dtype=dtype) * self.scale
        middle_TR = F.linear(x_TI.to(dtype), A_ErI.to(dtype).flatten(0, 1))
        middle_TR = middle_TR * gate_TE.repeat_interleave(A_ErI.shape[1], dim=1)
        update_TO = middle_TR @ B_EOr.to(dtype).transpose(1, 2).flatten(0, 1)
        return (y_TO + update_TO).to(y_TO.dtype)

    def merged(self, route: AnyRoute) -> tuple[Tensor, Tensor, float]:
        """(A [R, I], B [O, R], scale) that do what the experts on duty do under a route of one token."""
        A_ErI, B_EOr = self._net[0].factors(*self.sizes)
        gate_E = route.dense()[0].to(A_ErI)
        on = gate_E.nonzero()[:, 0]
        B_OR = (B_EOr[on] * gate_E[on, None, None]).transpose(0, 1).flatten(1)
        return A_ErI[on].flatten(0, 1), B_OR, self.scale
