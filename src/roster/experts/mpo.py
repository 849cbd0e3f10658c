"""Experts whose matrices are matrix product operators with one core in common (Gao et al., 2022, MPOE,
arXiv:2203.01104).

Shape legend: R rows grouped by expert, E experts, D model width, F expert width; of one matrix: I inputs, O outputs;
of one core: P bond to the left, I and O its factors of inputs and outputs, Q bond to the right.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roster.dispatch import grouped_matmul
from roster.errors import RosterError

SIDE = 2  # auxiliary cores on either side of the central one


class MPO(nn.Module):
    """One matrix per expert, `W_e = A1_e A2_e C A3_e A4_e`: the central core C is shared, the others are the expert's.

    Args:
        num_experts: E.
        inputs, outputs: I and O; their prime factors are dealt to the cores, what is left over to the central one.
        bond: largest bond; 0 for bonds at which every matrix can be written.
        mask: probability with which an entry of C gets no gradient in a step: it is trained by all experts at once,
            they by their own tokens.
    """

    def __init__(self, num_experts: int, inputs: int, outputs: int, bond: int = 0, mask: float = 0.0):
        super().__init__()
        if not 0.0 <= mask < 1.0:
            raise RosterError(f"matrix product: a gradient mask must lie in [0, 1), not {mask}")
        self.mask = mask
        self.shapes = core_shapes(inputs, outputs, bond)
        for index, (p, i, o, q) in enumerate(self.shapes):
            if index == SIDE:
                central_PIOQ = torch.randn(p, i, o, q) * (outputs / (p * i * o * q)) ** 0.5
                self.central_PIOQ = nn.Parameter(central_PIOQ)
                continue
            # Orthonormal towards the central core, so that C alone sets the size of the product.
            rows, columns = (p * i * o, q) if index < SIDE else (p, i * o * q)
            cores = [nn.init.orthogonal_(torch.empty(rows, columns)).view(p, i, o, q) for _ in range(num_experts)]
            self.register_parameter(f"core{index}_EPIOQ", nn.Parameter(torch.stack(cores)))

    def forward(self) -> Tensor:
        """The matrices [E, I, O]."""
        first_EPIOQ = self.get_parameter("core0_EPIOQ")
        out = first_EPIOQ[:, 0]
        for index in range(1, len(self.shapes)):
            if index == SIDE:
                core, term = self._central(), "exyp,pioq->exiyoq"
            else:
                core, term = self.get_parameter(f"core{index}_EPIOQ"), "exyp,epioq->exiyoq"
            out = torch.einsum(term, out, core).flatten(1, 2).flatten(2, 3)
        return out[..., 0]

    def _central(self) -> Tensor:
        central = self.central_PIOQ
        if not (self.training and self.mask):
            return central
        learns = torch.rand_like(central) >= self.mask
        return torch.where(learns, central, central.detach())

    @torch.no_grad()
    def set(self, weight_IO: Tensor) -> None:
        """Makes every expert's matrix this one, or the nearest that the bonds allow."""
        for index, core in enumerate(decompose(weight_IO, self.shapes)):
            if index == SIDE:
                self.central_PIOQ.copy_(core)
            else:
                self.get_parameter(f"core{index}_EPIOQ").copy_(core)


class MPOExperts(nn.Module):
    """SwiGLU experts with matrices of matrix product form; see `MPO`.

    Args:
        num_experts, width, hidden: E, D, F.
        bond, mask: as of `MPO`.
    """

    def __init__(self, num_experts: int, width: int, hidden: int, bond: int = 0, mask: float = 0.0):
        super().__init__()
        self.num_experts = num_experts
        self.gate = MPO(num_experts, width, hidden, bond, mask)
        self.up = MPO(num_experts, width, hidden, bond, mask)
        self.down = MPO(num_experts, hidden, width, bond, mask)

    def forward(self, rows_RD: Tensor, counts_E: Tensor) -> Tensor:
        """Rows out for rows in; rows behind the last group belong to nobody and come back undefined."""
        gate_RF = grouped_matmul(rows_RD, self.gate(), counts_E)
        up_RF = grouped_matmul(rows_RD, self.up(), counts_E)
        return grouped_matmul(F.silu(gate_RF) * up_RF, self.down(), counts_E)


def core_shapes(inputs: int, outputs: int, bond: int = 0) -> list[tuple[int, int, int, int]]:
    """(P, I, O, Q) of the five cores."""
    factors = list(zip(_deal(inputs), _deal(outputs), strict=True))
    sizes = [i * o for i, o in factors]
    bonds = [1]
    for cut in range(1, len(sizes)):
        full = min(math.prod(sizes[:cut]), math.prod(sizes[cut:]))
        bonds.append(min(full, bond) if bond else full)
    bonds.append(1)
    return [(bonds[n], *factors[n], bonds[n + 1]) for n in range(len(factors))]


def _deal(size: int) -> list[int]:
    """`size` as a product of five: its smallest primes to the outer four, what is left to the middle."""
    left, dealt = size, []
    for _ in range(2 * SIDE):
        prime = next((p for p in range(2, left + 1) if left % p == 0), 1)
        dealt.append(prime)
        left //= prime
    return [*dealt[:SIDE], left, *dealt[SIDE:]]


def decompose(weight_IO: Tensor, shapes: list[tuple[int, int, int, int]]) -> list[Tensor]:
    """The cores [P, I, O, Q] of a matrix, by singular value decompositions from both ends; exact at full bonds."""
    inputs, outputs = [i for _, i, _, _ in shapes], [o for _, _, o, _ in shapes]
    N = len(shapes)
    order = [axis for n in range(N) for axis in (n, N + n)]
    rest = weight_IO.reshape(*inputs, *outputs).permute(order).reshape(-1)
    left: list[Tensor] = []
    right: list[Tensor] = []
    for p, i, o, q in shapes[:SIDE]:
        u, s, v = torch.linalg.svd(rest.reshape(p * i * o, -1), full_matrices=False)
        left.append(u[:, :q].reshape(p, i, o, q))
        rest = s[:q, None] * v[:q]
    for p, i, o, q in reversed(shapes[SIDE + 1 :]):
        u, s, v = torch.linalg.svd(rest.reshape(-1, i * o * q), full_matrices=False)
        right.insert(0, v[:p].reshape(p, i, o, q))
        rest = u[:, :p] * s[:p]
    return [*left, rest.reshape(shapes[SIDE]), *right]
