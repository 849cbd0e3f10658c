"""Texts that wait at the same moment are looked at in one pass, by a policy that can (`Looks`).

A policy decides on a thread of its own, one after the other, so that of sixteen requests in the same moment the last
would wait for fifteen decisions. An encoder reads sixteen short texts in little more time than four. What is waiting
when the thread is free goes together; nobody waits for others to come.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, Protocol, runtime_checkable

AT_ONCE = 16
"""Texts in one pass at most: who comes meanwhile waits for it."""


@runtime_checkable
class Looks(Protocol):
    """A policy whose decisions rest on a look at the text alone."""

    def look(self, prompts: Sequence[str]) -> Sequence[Any]:
        """What it sees in each text; on its own thread."""
        ...

    def decide_on(self, seen: Any, exclude: Any) -> Any:
        """The decision on what was seen; see `roster.lm.policy.Policy`. Takes no time."""
        ...


class Together:
    """Gathers texts and shares out what is seen in them.

    Args:
        look: as in `Looks`.
        thread: where it runs; one at a time.
    """

    def __init__(self, look: Callable[[Sequence[str]], Sequence[Any]], thread: Executor) -> None:
        self._look, self._thread = look, thread
        self._waiting: deque[tuple[str, asyncio.Future[Any]]] = deque()
        self._task: asyncio.Task[None] | None = None

    async def of(self, text: str) -> Any:
        """What is seen in a text.

        Raises:
            Exception: what `look` raises about this text.
        """
        mine: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((text, mine))
        if self._task is None:
            self._task = asyncio.create_task(self._work())
        return await mine

    async def _work(self) -> None:
        try:
            while self._waiting:
                some = [self._waiting.popleft() for _ in range(min(AT_ONCE, len(self._waiting)))]
                # A client that has gone is not worked for.
                await self._serve([(text, told) for text, told in some if not told.done()])
        finally:
            self._task = None

    async def _serve(self, some: Sequence[tuple[str, asyncio.Future[Any]]]) -> None:
        if not some:
            return
        texts = [text for text, _ in some]
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._thread, self._look, texts)
        except Exception as error:
            if len(some) == 1:
                _tell(some[0][1], error=error)
                return
            for each in some:  # one text's trouble is not the others'
                await self._serve([each])
            return
        for (_, told), seen in zip(some, found, strict=True):
            _tell(told, seen)


def _tell(told: asyncio.Future[Any], seen: Any = None, error: Exception | None = None) -> None:
    if told.done():
        return
    if error is None:
        told.set_result(seen)
    else:
        told.set_exception(error)
