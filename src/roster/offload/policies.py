"""Which expert makes room: the classical rules of caches.

A policy knows the experts that are held by a group of layers, and names the next to go. `keep` are those that must
stay: experts that are needed now, or on their way. Rules that know more than the past are files of their own
(`belady.py`, `moe_infinity.py`, `moe_deployment.py`).
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Container
from itertools import count
from typing import Protocol

from roster.offload.layout import Key


class Policy(Protocol):
    """The rule of one group of layers; called under the cache's lock."""

    def hit(self, key: Key) -> None:
        """A held expert was needed."""

    def admit(self, key: Key, ahead: bool = False) -> None:
        """An expert came in: because it was needed, or (`ahead`) because it may be."""

    def victim(self, keep: Container[Key]) -> Key | None:
        """Who goes next; None when all that are held are to be kept. It has gone when this returns."""

    def drop(self, key: Key) -> None:
        """An expert was taken out before its turn."""


class FIFO:
    """First in, first out."""

    def __init__(self) -> None:
        self._held: OrderedDict[Key, None] = OrderedDict()

    def hit(self, key: Key) -> None:
        """Changes nothing."""

    def admit(self, key: Key, ahead: bool = False) -> None:
        """To the end of the queue."""
        self._held[key] = None

    def victim(self, keep: Container[Key]) -> Key | None:
        """The one that has been here longest."""
        for key in self._held:
            if key not in keep:
                del self._held[key]
                return key
        return None

    def drop(self, key: Key) -> None:
        """Out of the queue."""
        self._held.pop(key, None)


class LRU(FIFO):
    """Least recently used."""

    def hit(self, key: Key) -> None:
        """To the end of the queue."""
        self._held.move_to_end(key)


class LFU:
    """Least frequently used; counts outlive a stay, and among equals the one that was used longest ago goes."""

    def __init__(self) -> None:
        self._uses: dict[Key, int] = {}
        self._heap: list[tuple[int, int, Key]] = []
        self._latest: dict[Key, int] = {}
        self._clock = count()

    def hit(self, key: Key) -> None:
        """One use more."""
        self._count(key, 1)

    def admit(self, key: Key, ahead: bool = False) -> None:
        """One use more, unless it only may be needed."""
        self._count(key, 0 if ahead else 1)

    def victim(self, keep: Container[Key]) -> Key | None:
        """The held expert with the fewest uses."""
        passed: list[tuple[int, int, Key]] = []
        found = None
        while self._heap and found is None:
            entry = heapq.heappop(self._heap)
            if self._latest.get(entry[2]) != entry[1]:
                continue  # it was used since, or has gone
            if entry[2] in keep:
                passed.append(entry)
            else:
                found = entry[2]
                del self._latest[found]
        for entry in passed:
            heapq.heappush(self._heap, entry)
        return found

    def drop(self, key: Key) -> None:
        """Its count stays."""
        self._latest.pop(key, None)

    def _count(self, key: Key, uses: int) -> None:
        self._uses[key] = self._uses.get(key, 0) + uses
        self._latest[key] = next(self._clock)
        heapq.heappush(self._heap, (self._uses[key], self._latest[key], key))


class ARC:
    """Adaptive replacement: recent and frequent experts share the room by which of the two was missed more.

    Those seen once and those seen again are two queues; what has left them is remembered by name, and a miss that is
    remembered moves the border.

    Args:
        capacity: experts that the group holds.

    Source: Megiddo and Modha, 2003, "ARC: A Self-Tuning, Low Overhead Replacement Cache". Difference: the room is made
    by the cache, when it asks; experts that must stay are passed over.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._border = 0.0
        self._once: OrderedDict[Key, None] = OrderedDict()
        self._again: OrderedDict[Key, None] = OrderedDict()
        self._once_gone: OrderedDict[Key, None] = OrderedDict()
        self._again_gone: OrderedDict[Key, None] = OrderedDict()

    def hit(self, key: Key) -> None:
        """Seen again."""
        self._once.pop(key, None)
        self._again[key] = None
        self._again.move_to_end(key)

    def admit(self, key: Key, ahead: bool = False) -> None:
        """Seen once, or again when it is remembered."""
        if key in self._once_gone:
            del self._once_gone[key]
            self._again[key] = None
        elif key in self._again_gone:
            del self._again_gone[key]
            self._again[key] = None
        else:
            self._once[key] = None
        for gone, room in ((self._once_gone, self._capacity), (self._again_gone, self._capacity)):
            while len(gone) > room:
                gone.popitem(last=False)

    def missed(self, key: Key) -> None:
        """Before room is made for a needed expert: what is remembered of it moves the border."""
        if key in self._once_gone:
            step = max(1.0, len(self._again_gone) / len(self._once_gone))
            self._border = min(self._border + step, float(self._capacity))
        elif key in self._again_gone:
            step = max(1.0, len(self._once_gone) / len(self._again_gone))
            self._border = max(self._border - step, 0.0)

    def victim(self, keep: Container[Key]) -> Key | None:
        """The oldest of the queue that has more than its share; of the other one where all of it must stay."""
        once = (self._once, self._once_gone)
        again = (self._again, self._again_gone)
        for queue, gone in (once, again) if len(self._once) > self._border else (again, once):
            for key in queue:
                if key not in keep:
                    del queue[key]
                    gone[key] = None
                    return key
        return None

    def drop(self, key: Key) -> None:
        """As if it had never come."""
        self._once.pop(key, None)
        self._again.pop(key, None)
