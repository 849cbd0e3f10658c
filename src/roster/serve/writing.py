"""From tokens to text, piece by piece: whole characters only, and nothing that may yet turn out to be a stop word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_BROKEN = "\ufffd"


class Writing:
    """The text of one answer.

    Args:
        tokenizer: of the model.
        stops: words that end the answer and are not part of it.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str] = ()) -> None:
        self._tokenizer, self._stops = tokenizer, [stop for stop in stops if stop]
        self._ids: list[int] = []
        self._read = self._from = 0
        self._held = ""
        self.stopped = False

    def add(self, id: int) -> str:
        """The text that can be told after one more token; "" where it takes more to know."""
        self._ids.append(id)
        # Tokens are decoded along with those before them, since many tokenizers join pieces by what comes before.
        before = self._decode(self._ids[self._from : self._read])
        now = self._decode(self._ids[self._from :])
        if now.endswith(_BROKEN) or len(now) <= len(before):
            return ""
        self._from, self._read = self._read, len(self._ids)
        return self._told(now[len(before) :])

    def end(self) -> str:
        """What was held back, now that nothing more comes."""
        if self.stopped:
            return ""
        before = self._decode(self._ids[self._from : self._read])
        rest = self._held + self._decode(self._ids[self._from :])[len(before) :]
        self._held, self._from = "", self._read
        return rest

    def _told(self, text: str) -> str:
        text = self._held + text
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            return text[: min(found)]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))


def _overlap(text: str, stop: str) -> int:
    """The most characters at the end of a text with which a stop word begins."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
