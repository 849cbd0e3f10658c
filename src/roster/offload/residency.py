"""Which experts are held: the bookkeeping of a cache, without its memory. The engine and the simulator share it.

The layers are split into groups; each group has so many slots, and a policy that says who makes room in it. One group
for all layers is a common pool, a group for each layer is a partition.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Sequence
from dataclasses import dataclass

from roster.errors import RosterError
from roster.offload.layout import Key
from roster.offload.policies import Policy

MakePolicy = Callable[[int], Policy]
"""The policy of a group, by its number of slots."""


@dataclass(frozen=True)
class Shares:
    """How slots are divided.

    Attributes:
        group_of: the group of each layer.
        slots: of each group.
    """

    group_of: tuple[int, ...]
    slots: tuple[int, ...]

    @property
    def total(self) -> int:
        """Slots of all groups."""
        return sum(self.slots)


def pooled(total: int, experts: Sequence[int]) -> Shares:
    """All layers share all slots."""
    return Shares((0,) * len(experts), (min(total, sum(experts)),))


def by_layer(total: int, experts: Sequence[int], shallow: float = 0.0) -> Shares:
    """Every layer has slots of its own, at least one and at most one for each expert.

    Args:
        total: slots of all layers.
        experts: of each layer.
        shallow: how many times a fair share the first layer has more than the last, falling evenly between them; 0 is
            equal shares. Early layers are the ones whose experts are hardest to foretell (Fate, see `fate.py`).

    Raises:
        RosterError: there are more layers than slots.
    """
    layers = len(experts)
    if total < layers:
        raise RosterError(f"{total} slots are too few for {layers} layers: each needs one; raise max_memory")
    tilt = [1.0 + shallow * (0.5 - index / max(layers - 1, 1)) for index in range(layers)]
    wanted = [each * count for each, count in zip(tilt, experts, strict=True)]
    slots = [1] * layers
    left = min(total, sum(experts)) - layers
    while left > 0:
        # One slot after the other to the layer that lacks most of its share.
        open_layers = [index for index in range(layers) if slots[index] < experts[index]]
        chosen = min(open_layers, key=lambda index: (slots[index] / max(wanted[index], 1e-9), index))
        slots[chosen] += 1
        left -= 1
    return Shares(tuple(range(layers)), tuple(slots))


class Residency:
    """Who is held, group by group.

    Args:
        shares: of the slots.
        make_policy: called once for each group.
        pinned: experts that stay once they have come.
    """

    def __init__(self, shares: Shares, make_policy: MakePolicy, pinned: Collection[Key] = ()) -> None:
        self.shares = shares
        self.policies = [make_policy(slots) for slots in shares.slots]
        self.pinned = frozenset(pinned)
        self._held: list[set[Key]] = [set() for _ in shares.slots]
        self._missed = [getattr(policy, "missed", None) for policy in self.policies]

    def __contains__(self, key: Key) -> bool:
        return key in self._held[self.shares.group_of[key[0]]]

    def hit(self, key: Key) -> None:
        """A held expert is needed."""
        self.policies[self.shares.group_of[key[0]]].hit(key)

    def admit(self, key: Key, keep: Container[Key], ahead: bool = False) -> tuple[bool, Key | None]:
        """Lets an expert in, if need be in another's place.

        Args:
            key: the expert.
            keep: who must stay.
            ahead: it may be needed, and is not yet.

        Returns:
            (whether it is held now, who had to go).
        """
        group = self.shares.group_of[key[0]]
        policy, held = self.policies[group], self._held[group]
        gone = None
        if not ahead and (missed := self._missed[group]) is not None:
            missed(key)
        if len(held) >= self.shares.slots[group]:
            gone = policy.victim(_Either(keep, self.pinned) if self.pinned else keep)
            if gone is None:
                return False, None
            held.discard(gone)
        held.add(key)
        policy.admit(key, ahead)
        return True, gone

    def drop(self, key: Key) -> None:
        """Takes an expert out: it did not come, or nobody waits for it any more."""
        group = self.shares.group_of[key[0]]
        self._held[group].discard(key)
        self.policies[group].drop(key)

    def room(self, layer: int) -> int:
        """Slots of a layer's group."""
        return self.shares.slots[self.shares.group_of[layer]]


class _Either:
    """Membership in one of two, without making a third."""

    def __init__(self, first: Container[Key], second: Container[Key]) -> None:
        self._first, self._second = first, second

    def __contains__(self, key: object) -> bool:
        return key in self._first or key in self._second
