"""Multilinear mixtures: linear layers with a matrix per expert, in factors that never become a tensor (Oldfield et al.,
2024, arXiv:2402.12550).

Shape legend: B batch rows, S tokens per row, T = B * S, I inputs, O outputs, E experts, P, Q, R ranks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roster.context import Context
from roster.errors import RosterError
from roster.router import Router

_RING = 4  # ranks of the tensor ring on both sides of the experts' factor


class CP(nn.Module):
    """`y_o = sum_e a_e W_eio x_i` with `W_eio = sum_r G_er U_ir V_ro`.

    Args:
        num_experts, inputs, outputs: E, I, O.
        rank: R.
    """

    def __init__(self, num_experts: int, inputs: int, outputs: int, rank: int):
        super().__init__()
        self.num_experts = num_experts
        self.gate_ER = nn.Parameter(1.0 + 0.5 * torch.randn(num_experts, rank))
        self.in_IR = nn.Parameter(torch.randn(inputs, rank) * inputs**-0.5)
        self.out_RO = nn.Parameter(torch.randn(rank, outputs) * rank**-0.5)

    @staticmethod
    def rank_for(parameters: int, num_experts: int, inputs: int, outputs: int) -> int:
        """The largest rank within a number of parameters."""
        return parameters // (num_experts + inputs + outputs)

    def forward(self, x_TI: Tensor, gate_TE: Tensor) -> Tensor:
        """[T, O]."""
        return ((x_TI @ self.in_IR) * (gate_TE @ self.gate_ER)) @ self.out_RO

    def weight_EIO(self) -> Tensor:
        """The tensor that the factors stand for."""
        return torch.einsum("er,ir,ro->eio", self.gate_ER, self.in_IR, self.out_RO)


class TensorRing(nn.Module):
    """The same with `W_eio = sum_pqr G_peq U_qir V_rop`.

    Args:
        num_experts, inputs, outputs: E, I, O.
        rank: R, between inputs and outputs; P and Q are 4.
    """

    def __init__(self, num_experts: int, inputs: int, outputs: int, rank: int):
        super().__init__()
        self.num_experts = num_experts
        shared_P1Q = torch.randn(_RING, 1, _RING)
        self.gate_PEQ = nn.Parameter((shared_P1Q + 0.5 * torch.randn(_RING, num_experts, _RING)) / _RING)
        self.in_QIR = nn.Parameter(torch.randn(_RING, inputs, rank) * inputs**-0.5)
        self.out_ROP = nn.Parameter(torch.randn(rank, outputs, _RING) * rank**-0.5)

    @staticmethod
    def rank_for(parameters: int, num_experts: int, inputs: int, outputs: int) -> int:
        """The largest rank within a number of parameters."""
        return (parameters - _RING * _RING * num_experts) // (_RING * (inputs + outputs))

    def forward(self, x_TI: Tensor, gate_TE: Tensor) -> Tensor:
        """[T, O]."""
        gate_TPQ = torch.einsum("te,peq->tpq", gate_TE, self.gate_PEQ)
        middle_TPR = gate_TPQ @ torch.einsum("ti,qir->tqr", x_TI, self.in_QIR)
        return torch.einsum("tpr,rop->to", middle_TPR, self.out_ROP)

    def weight_EIO(self) -> Tensor:
        """The tensor that the factors stand for."""
        return torch.einsum("peq,qir,rop->eio", self.gate_PEQ, self.in_QIR, self.out_ROP)


FACTORISATIONS: dict[str, type[CP] | type[TensorRing]] = {"cp": CP, "ring": TensorRing}


class Multilinear(nn.Module):
    """Two multilinear layers with a GELU between them and one gate for both; all experts combine at once.

    Args:
        router: its dense gate weighs the experts.
        up, down: layers `(x_TI, gate_TE) -> [T, O]`.
    """

    def __init__(self, router: Router, up: nn.Module, down: nn.Module):
        super().__init__()
        self.router, self.up, self.down = router, up, down
        self.num_experts = up.num_experts

    def forward(self, x_BSD: Tensor, context: Context) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        x_TD = x_BSD.reshape(-1, x_BSD.shape[-1])
        gate_TE = self.router(x_TD, context).dense().to(x_TD.dtype)
        y_TD: Tensor = self.down(F.gelu(self.up(x_TD, gate_TE)), gate_TE).view_as(x_BSD)
        return y_TD


def layer(factorisation: str, num_experts: int, inputs: int, outputs: int, parameters: int, rank: int = 0) -> nn.Module:
    """A layer of this rank, or of the largest one within a number of parameters when the rank is 0."""
    kind = FACTORISATIONS[factorisation]
    rank = rank or kind.rank_for(parameters, num_experts, inputs, outputs)
    if rank < 1:
        raise RosterError(
            f"multilinear layer: {num_experts} experts of {inputs} x {outputs} do not fit into {parameters} parameters"
        )
    return kind(num_experts, inputs, outputs, rank)
