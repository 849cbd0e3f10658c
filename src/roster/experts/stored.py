"""LoRA experts that stay where they are stored, in files that are mapped into memory: only those on duty are read.

Equation: y += sum_e g_e * scale_e * B_e A_e x over the experts e with a weight anywhere in the batch.
Trains: nothing; there is nothing to train in a file.
Siblings: `low_rank` lays all experts side by side in memory, which is faster where many are on duty at once.

Shape legend: T tokens, E experts, r ranks of those on duty, I in_features, O out_features.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from roster.experts.on_duty import OnDuty
from roster.route import AnyRoute, Route


class StoredExperts(OnDuty):
    """See above.

    Args:
        factors: per expert (A [r, I], B [O, r], scale), or None for an expert without an update here; the tensors are
            used as they are, and are no parameters.
    """

    def __init__(self, factors: Sequence[tuple[Tensor, Tensor, float] | None]):
        super().__init__()
        self.factors = list(factors)
        present = [each for each in factors if each is not None]
        self.ranks = [0 if each is None else each[0].shape[0] for each in factors]
        self.scales = [0.0 if each is None else float(each[2]) for each in factors]
        self.widths = present[0][0].shape[1] + present[0][1].shape[0]
        self._type = present[0][0].dtype
        for A_rI, _, _ in present:
            self._type = torch.promote_types(self._type, A_rI.dtype)

    @property
    def num_experts(self) -> int:
        """E."""
        return len(self.ranks)

    @property
    def stored(self) -> torch.dtype:
        """The widest of the factors' types."""
        return self._type

    def expert(self, index: int) -> tuple[Tensor, Tensor, float] | None:
        """(A [r, I], B [O, r], scale) of one expert, at least in float32; None where it has no update."""
        found = self.factors[index]
        if found is None:
            return None
        dtype = torch.promote_types(self._type, torch.float32)
        return found[0].to(dtype), found[1].to(dtype), found[2]

    def taken(self, duty: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(A_rI, B_rO) of some experts, one below the other; of one alone, the file's own."""
        found = [each for e in duty if (each := self.factors[e]) is not None]
        if len(found) == 1:
            return found[0][0], found[0][1].T
        parts = [(A_rI.to(self._type), B_Or.T.to(self._type)) for A_rI, B_Or, _ in found]
        return torch.cat([A_rI for A_rI, _ in parts]), torch.cat([B_rO for _, B_rO in parts])

    def forward(self, x_TI: Tensor, y_TO: Tensor, route: AnyRoute) -> Tensor:
        """Adds the experts' updates to the base layer's output [T, O], in place where no gradients are recorded."""
        if isinstance(route, Route) and route.duty is not None:
            return self.few(x_TI, y_TO, route)
        gate_TE = route.dense()
        # Nobody has said who is on duty, so it is asked here; on a GPU that waits for it.
        duty = [e for e in gate_TE.any(0).nonzero()[:, 0].tolist() if self.ranks[e]]
        if not duty:
            return y_TO
        dtype = self.computes_in(x_TI)
        A_rI, B_rO = (each.to(device=x_TI.device, dtype=dtype) for each in self.taken(duty))
        scale_U = torch.tensor([self.scales[e] for e in duty], device=x_TI.device)
        ranks_U = torch.tensor([self.ranks[e] for e in duty], device=x_TI.device)
        gate_Tr = (gate_TE[:, duty].to(x_TI.device) * scale_U).repeat_interleave(ranks_U, dim=1)
        update_TO = ((x_TI.to(dtype) @ A_rI.T) * gate_Tr.to(dtype)) @ B_rO
        return (y_TO + update_TO).to(y_TO.dtype)
