"""Belady's rule: the expert that is needed again last makes room. It knows the future: a bound, for simulations.

Source: Belady, 1966, "A Study of Replacement Algorithms for Virtual-Storage Computer".
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Container, Iterable

from roster.offload.layout import Key

_NEVER = 2**62


class Belady:
    """The fewest misses that any rule could have, on one known sequence of needs and without reading ahead.

    Exact while no call needs more experts than there are slots, as in decoding; else who is streamed is not its choice.

    Args:
        future: (time, expert) of every need to come, by time.
    """

    def __init__(self, future: Iterable[tuple[int, Key]]) -> None:
        self._uses: dict[Key, deque[int]] = {}
        for time, key in future:
            self._uses.setdefault(key, deque()).append(time)
        self._heap: list[tuple[int, Key]] = []
        self._next: dict[Key, int] = {}

    def hit(self, key: Key) -> None:
        """The need that has just been met is no future one."""
        self.missed(key)
        self.admit(key)

    def missed(self, key: Key) -> None:
        """Nor is one that is met without a slot."""
        if uses := self._uses.get(key):
            uses.popleft()

    def admit(self, key: Key, ahead: bool = False) -> None:
        """Waits for its next need."""
        uses = self._uses.get(key)
        self._next[key] = uses[0] if uses else _NEVER
        heapq.heappush(self._heap, (-self._next[key], key))

    def victim(self, keep: Container[Key]) -> Key | None:
        """The held expert whose next need is furthest away."""
        passed, found = [], None
        while self._heap and found is None:
            entry = heapq.heappop(self._heap)
            if self._next.get(entry[1]) != -entry[0]:
                continue
            if entry[1] in keep:
                passed.append(entry)
            else:
                found = entry[1]
                del self._next[found]
        for entry in passed:
            heapq.heappush(self._heap, entry)
        return found

    def drop(self, key: Key) -> None:
        """It is no longer held."""
        self._next.pop(key, None)
