"""Low-rank experts of which only those that a route puts on duty are touched; how they are kept is the subclass's part.

Shape legend: T tokens, E experts, r ranks of those on duty, I in_features, O out_features, U experts on duty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roster.route import Route

# Up to so many multiplications (tokens x ranks x widths), a processor is faster in float32, casts included, than in
# half precision, where the call itself costs most (measured at 1 to 32 tokens, ranks 8 to 160, widths 192 to 4096).
_FLOAT32_UP_TO = 2**20


@dataclass(frozen=True)
class _Shared:
    """What layers that read the same have in common in a step: their A, one below the other, and their gates."""

    A_XI: Tensor
    gate_TX: Tensor | None


@dataclass(frozen=True)
class _Part:
    """What is one layer's own: which ranks, their B, and what the product is multiplied by."""

    shared: _Shared
    ranks: slice
    B_rO: Tensor
    scale: float


class OnDuty(nn.Module):
    """`y += sum_u g_u * scale_u * B_u A_u x` over the experts on duty.

    Attributes:
        family: experts of the layers that read the same, these among them; empty where there are no others.
        ranks, scales: of each expert; 0 for one without an update here.
        widths: I + O.
    """

    ranks: list[int]
    scales: list[float]
    widths: int
    family: tuple[OnDuty, ...] = ()

    @property
    def stored(self) -> torch.dtype:
        """The factors' type."""
        raise NotImplementedError

    def taken(self, duty: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(A_rI, B_rO) of some experts, one below the other."""
        raise NotImplementedError

    def few(self, x_TI: Tensor, y_TO: Tensor, route: Route) -> Tensor:
        """Takes only the factors of the experts that are on duty anywhere; they are known without waiting."""
        casts = torch.is_autocast_enabled(x_TI.device.type)
        if route.steady and route.kept is not None and not casts and not torch.is_grad_enabled():
            return self._step(x_TI, y_TO, route, route.kept)
        duty = self._present(route)
        if not duty:
            return y_TO
        A_rI, B_rO, scale = self._factors_of(duty, x_TI, route)
        dtype = A_rI.dtype
        middle_Tr = F.linear(x_TI.to(dtype), A_rI)
        if not route.sole:
            middle_Tr = middle_Tr * self._gate_of(duty, route, middle_Tr)
        if torch.is_grad_enabled() or casts:
            if y_TO.dtype == dtype and not casts:
                return torch.addmm(y_TO, middle_Tr, B_rO, alpha=scale)
            return (y_TO + (middle_Tr @ B_rO) * scale).to(y_TO.dtype)  # added in the wider type, rounded once
        return _added(y_TO, middle_Tr, B_rO, scale)

    def _present(self, route: Route) -> list[int]:
        return [e for e in route.duty or () if self.ranks[e]]

    def _step(self, x_TI: Tensor, y_TO: Tensor, route: Route, kept: dict[Any, Any]) -> Tensor:
        """The same in a step: what does not change from one to the next is found out at the first, and layers that read
        the same take one product."""
        key = (id(self), x_TI.shape[0])
        if key not in kept:
            self._settle(x_TI, route, kept)
        part: _Part | None = kept[key]
        if part is None:
            return y_TO
        shared = part.shared
        ready: tuple[Tensor, Tensor] | None = route.spread.get(id(shared))
        # The input is held here, so that no other tensor can come to lie where it lies.
        if ready is None or ready[0].data_ptr() != x_TI.data_ptr() or ready[0].shape != x_TI.shape:
            middle_TX = F.linear(x_TI.to(shared.A_XI.dtype), shared.A_XI)
            if shared.gate_TX is not None:
                middle_TX.mul_(shared.gate_TX)
            ready = route.spread[id(shared)] = x_TI, middle_TX
        return _added(y_TO, ready[1][:, part.ranks], part.B_rO, part.scale)

    def _settle(self, x_TI: Tensor, route: Route, kept: dict[Any, Any]) -> None:
        """Leaves the part of each member of the family in `kept`; None for one without experts on duty."""
        found: dict[tuple[torch.dtype, int], list[tuple[OnDuty, Tensor, Tensor, float, Tensor | None]]] = {}
        for member in self.family or (self,):
            kept[id(member), x_TI.shape[0]] = None
            duty = member._present(route)
            if duty:
                A_rI, B_rO, scale = member._factors_of(duty, x_TI, route)
                gate_TX = None if route.sole else member._gate_of(duty, route, A_rI)
                gate_TX = gate_TX if gate_TX is None else gate_TX.expand(-1, len(A_rI))
                found.setdefault((A_rI.dtype, A_rI.shape[1]), []).append((member, A_rI, B_rO, scale, gate_TX))
        for parts in found.values():
            gates = [each[4] for each in parts if each[4] is not None]
            shared = _Shared(_joined([each[1] for each in parts], 0), _joined(gates, 1) if gates else None)
            start = 0
            for member, A_rI, B_rO, scale, _ in parts:
                kept[id(member), x_TI.shape[0]] = _Part(shared, slice(start, start + len(A_rI)), B_rO, scale)
                start += len(A_rI)

    def _factors_of(self, duty: Sequence[int], x_TI: Tensor, route: Route) -> tuple[Tensor, Tensor, float]:
        """(A_rI, B_rO, scale) of some experts in the type to compute in; the scale is 1 where they differ in it."""
        few = x_TI.device.type == "cpu" and x_TI.shape[0] * self._size(duty) <= _FLOAT32_UP_TO
        key = (id(self), few, *duty)
        found: tuple[Tensor, Tensor, float] | None = None if route.kept is None else route.kept.get(key)
        if found is None:
            dtype = self.computes_in(x_TI)
            if few:
                dtype = torch.promote_types(dtype, torch.float32)
            A_rI, B_rO = (each.to(device=x_TI.device, dtype=dtype) for each in self.taken(duty))
            found = A_rI, B_rO, self.scales[duty[0]] if len(duty) == 1 else 1.0
            if (few or len(duty) > 1) and route.kept is not None and not torch.is_grad_enabled():
                route.kept[key] = found
        return found

    def _size(self, duty: Sequence[int]) -> int:
        """Numbers in the factors of some experts."""
        return sum(self.ranks[e] for e in duty) * self.widths

    def _gate_of(self, duty: Sequence[int], route: Route, like: Tensor) -> Tensor:
        """Gates of some experts, with their scales where there are several, for each of their ranks.

        They are worked out once in a call for all layers whose experts are of the same shape.
        """
        key = (tuple(self.ranks[e] for e in duty), tuple(self.scales[e] for e in duty), *duty, like.dtype, like.device)
        found = route.spread.get(key)
        if found is None:
            gate_TU = route.of(duty).to(like)
            found = gate_TU if len(duty) == 1 else self._by_rank(gate_TU, duty)
            if not torch.is_grad_enabled():
                route.spread[key] = found
        return found

    def _by_rank(self, gate_TU: Tensor, duty: Sequence[int]) -> Tensor:
        """Gates of some experts with their scales, one for each of their ranks."""
        scale_U = torch.tensor([self.scales[e] for e in duty], dtype=gate_TU.dtype, device=gate_TU.device)
        ranks = [self.ranks[e] for e in duty]
        ranks_U = torch.tensor(ranks, device=gate_TU.device)
        return (gate_TU * scale_U).repeat_interleave(ranks_U, dim=1, output_size=sum(ranks))

    def computes_in(self, x_TI: Tensor) -> torch.dtype:
        """The wider of the two types: float32 factors are not rounded to a half-precision input's type."""
        return torch.promote_types(x_TI.dtype, self.stored)


def _added(y_TO: Tensor, middle_Tr: Tensor, B_rO: Tensor, scale: float) -> Tensor:
    """The update added to the layer's output, in place; in the wider type, rounded once."""
    if y_TO.dtype == middle_Tr.dtype:
        return y_TO.addmm_(middle_Tr, B_rO, alpha=scale)
    return y_TO.add_(middle_Tr @ B_rO, alpha=scale)


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)
