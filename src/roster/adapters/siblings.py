"""Siblings: routed layers that read the same hidden states (q, k and v; gate and up) share their first matmul.

At decoding a step costs what its many small operations cost. The first sibling to run multiplies the hidden states by
the stacked scoring vectors and A factors of all of them, and routes them all in one selection; the others find their
part ready. Who may be siblings is read off their names; that they really read the same tensor is checked at every call,
and whoever reads another one (keys and values of an encoder) leaves the group. A layer without siblings is a group of
one: its scores and its A factors still take one matmul instead of two.

Shape legend: T tokens, N siblings, E experts, R all ranks of one layer, r rank of one expert, I in_features,
O out_features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeGuard, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roster.context import DUTY, Context
from roster.experts import LowRankExperts
from roster.experts.on_duty import OnDuty

if TYPE_CHECKING:
    from roster.adapters.site import RoutedLinear


_FAMILIES = (
    frozenset({"q_proj", "k_proj", "v_proj"}),
    frozenset({"query", "key", "value"}),
    frozenset({"gate_proj", "up_proj"}),
    frozenset({"w1", "w3"}),
)


class Directional(Protocol):
    """A score of inner products: `finish(x_TD @ directions_ED.T)` is what it says of x."""

    directions_ED: Tensor

    def finish(self, product_TE: Tensor) -> Tensor:
        """Scores from the inner products."""
        ...


class Siblings:
    """The routed layers that read the same hidden states. Works in inference only.

    Args:
        name: of the group, unique in its model.
        members: in the order in which the model has them; `can_share` must hold.
    """

    def __init__(self, name: str, members: Sequence[RoutedLinear]):
        self.key = f"siblings/{name}"
        self.members = list(members)
        scores = [member.router.score for member in members if member.router is not None]
        # Looked up where modules keep them, at every call: a module's own attribute access costs as much as a small
        # matmul, and a tensor that was looked up once could have been replaced since.
        self.homes = [_home(score, _directional(score).directions_ED) for score in scores]
        self.homes += [_home(member.experts, _experts(member).A_RI) for member in members]
        self.stacked = torch.empty(0)
        self.pointers: list[int] = []

    def serve(
        self, member: RoutedLinear, x_TI: Tensor, source: Tensor, y_TO: Tensor, context: Context
    ) -> Tensor | None:
        """Adds the experts' part to y in place, or returns None where sharing does not apply.

        Args:
            member: the layer that runs.
            x_TI: its input, flattened.
            source: its input as the model passed it, by which siblings know that they read the same.
            y_TO: the base layer's output.
            context: of the running call.
        """
        ready = context.memory.get(self.key)
        if context.memory.get(DUTY) is not None:
            return None  # few experts in all: each layer takes no more than theirs
        if member is self.members[0]:
            if not self._may_share(x_TI, context) or not self._stack(x_TI):
                return None
            ready = context.memory[self.key] = (source, self._middles(x_TI, context))
        elif ready is None:
            return None
        elif ready[0] is not source:
            self._leave(member)
            return None
        if member is self.members[-1]:
            del context.memory[self.key]
        # What may be shared was settled by the first sibling, so the others come straight here.
        experts = _experts(member)
        B_RO, scale = cast(Tensor, experts._parameters["B_RO"]), cast(float, experts.scale)
        return y_TO.addmm_(ready[1][id(member)], B_RO, alpha=scale)

    def _may_share(self, x_TI: Tensor, context: Context) -> bool:
        """Whether this is plain inference: nobody records, differentiates, compiles, casts or gives routes."""
        return not (
            context.recorder is not None
            or (context.gates_BE is not None and self.members[0].router is not None)
            or x_TI.dtype != _experts(self.members[0]).A_RI.dtype
            or torch.is_grad_enabled()
            or torch.compiler.is_compiling()
            or torch.is_autocast_enabled(x_TI.device.type)
        )

    def _leave(self, member: RoutedLinear) -> None:
        """Forms the group anew without a member; other threads may still be using the old one."""
        name = self.key.removeprefix("siblings/")
        member.siblings = Siblings(f"{name}/{self.members.index(member)}", [member])
        rest = Siblings(name, [each for each in self.members if each is not member])
        for each in rest.members:
            each.siblings = rest

    def _stack(self, x_TI: Tensor) -> bool:
        """Moves the weights into one matrix, unless they lie there already; False where they cannot be moved.

        They stay the parameters and buffers that they were, now as rows of that matrix: whoever changes one, by
        whatever way, changes what is multiplied here. Only replacing its storage takes it out, and that shows.
        """
        weights = [home[name] for home, name in self.homes]
        if self.pointers == [weight.data_ptr() for weight in weights]:
            return True
        if any(w.is_inference() or w.device != x_TI.device or w.dtype != x_TI.dtype for w in weights):
            return False
        self.stacked = torch.cat([weight.detach() for weight in weights])
        for weight, rows in zip(weights, self.stacked.split([len(w) for w in weights]), strict=True):
            weight.data = rows
        self.pointers = [weight.data_ptr() for weight in weights]
        return True

    def _middles(self, x_TI: Tensor, context: Context) -> dict[int, Tensor]:
        """What each sibling's B multiplies: its own `(A x) * gate`, [T, R]; by the sibling's id."""
        first, T = self.members[0], x_TI.shape[0]
        router, experts, N = first.router, _experts(first), len(self.members)
        E, r = experts.num_experts, cast(int, experts.rank)
        product_TX = F.linear(x_TI, self.stacked)
        middle_TX = product_TX
        if router is None:
            gate_TX = context.memory[first.route_key].dense()
        else:
            middle_TX = product_TX[:, N * E :]
            route = router.select(_directional(router.score).finish(product_TX[:, : N * E]).reshape(T * N, E), context)
            if context.mask_T is not None:
                route = route.keep(context.mask_T.to(x_TI.device).repeat_interleave(N))
            gate_TX = route.dense()
        gate_TX = gate_TX.to(device=x_TI.device, dtype=x_TI.dtype)
        # One gate per sibling, or one that all of them share.
        middle_TX.view(T, N, E, r).mul_(gate_TX.reshape(T, -1, E, 1))
        if N == 1:
            return {id(first): middle_TX}
        middles = middle_TX.view(T, N, E * r).unbind(1)
        return {id(m): middle for m, middle in zip(self.members, middles, strict=True)}


def find_siblings(members: Sequence[tuple[str, RoutedLinear]]) -> None:
    """Tells routed layers who their siblings are.

    Args:
        members: (name of the base's layer, its routed child), in the order of the model.
    """
    groups: dict[tuple[str, object, str, str], list[tuple[str, RoutedLinear]]] = {}
    for name, member in members:
        parent, _, own = name.rpartition(".")
        family = next((family for family in _FAMILIES if own in family), own)
        groups.setdefault((parent, family, member.route_source, member.side), []).append((name, member))
    for group in groups.values():
        experts = tuple(member.experts for _, member in group if isinstance(member.experts, OnDuty))
        if len(experts) == len(group) > 1:
            for each in experts:
                each.family = experts
        if can_share([member for _, member in group]):
            siblings = Siblings(group[0][0], [member for _, member in group])
            for member in siblings.members:
                member.siblings = siblings


def can_share(members: Sequence[RoutedLinear]) -> bool:
    """Whether these layers' experts and routers are of the kinds that can be stacked, and alike."""
    experts = [member.experts for member in members if _plain(member.experts)]
    if len(experts) < len(members):
        return False
    if len({(each.num_experts, each.rank, each.A_RI.shape[1]) for each in experts}) > 1:
        return False
    routers = [member.router for member in members if member.router is not None]
    if not routers:
        return True
    # A balance part is for training; the bias that one may carry differs from layer to layer.
    if any(len(router.balance) or not hasattr(router.score, "directions_ED") for router in routers):
        return False
    if not all(getattr(router.select, "rowwise", False) for router in routers):
        return False
    return len({type(r.score) for r in routers}) == 1 and all(_alike(routers[0].select, r.select) for r in routers)


def _plain(experts: object) -> TypeGuard[LowRankExperts]:
    return (
        type(experts) is LowRankExperts  # a kind of its own computes in its own way
        and experts.average == "updates"
        and experts.rank is not None
        and experts.scale is not None
        and not experts.may_group
    )


def _alike(one: object, other: object) -> bool:
    return type(one) is type(other) and _settings(one) == _settings(other)


def _settings(part: object) -> dict[str, object]:
    return {name: value for name, value in vars(part).items() if not name.startswith("_")}


def _experts(member: RoutedLinear) -> LowRankExperts:
    """A member's experts, which `can_share` has found to be such; without looking again, at every layer of a step."""
    return cast(LowRankExperts, member.experts)


def _directional(score: nn.Module) -> Directional:
    """A member's score, which `can_share` has found to be such."""
    return cast(Directional, score)


def _home(module: nn.Module, tensor: Tensor) -> tuple[dict[str, Tensor], str]:
    """The dictionary and the name under which a module keeps a tensor."""
    for home in (module._parameters, module._buffers):
        for name, each in home.items():
            if each is tensor:
                return cast(dict[str, Tensor], home), name  # at this name, and none other is read
    raise AssertionError(f"{type(module).__name__} does not hold its own tensor")
