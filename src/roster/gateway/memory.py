"""Prompts of recent calls, kept in memory so that a score can be learned from; bounded in number and in bytes."""

from __future__ import annotations

from cachetools import FIFOCache


class Prompts:
    """The newest prompts by call. One that is larger than everything together is not kept."""

    def __init__(self) -> None:
        self._cache: FIFOCache[str, str] = FIFOCache(0, getsizeof=_bytes)

    def keep(self, call: str, prompt: str, most: int, most_bytes: int) -> None:
        """Keeps a prompt, and lets the oldest go.

        Args:
            call: its id.
            prompt: the text.
            most: prompts in all.
            most_bytes: of all texts together.
        """
        if most_bytes != self._cache.maxsize:  # the config was reloaded
            kept = list(self._cache.items())
            self._cache = FIFOCache(most_bytes, getsizeof=_bytes)
            for each in kept:
                self._put(*each)
        self._put(call, prompt)
        while len(self._cache) > most:
            self._cache.popitem()

    def _put(self, call: str, prompt: str) -> None:
        if _bytes(prompt) <= self._cache.maxsize:
            self._cache[call] = prompt

    def get(self, call: str) -> str | None:
        """The prompt of a call, if it is still there."""
        found: str | None = self._cache.get(call)
        return found

    @property
    def bytes(self) -> int:
        """Of all texts together."""
        return int(self._cache.currsize)


def _bytes(prompt: str) -> int:
    """At most, as Python keeps it: a character takes up to four, and an object some of its own."""
    return 256 + len(prompt) * (1 if prompt.isascii() else 4)
