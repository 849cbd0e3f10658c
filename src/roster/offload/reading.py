"""Reading a checkpoint by offset while a model is served from it: through the system's cache, or past it.

A file that is replaced under its name is served on as it was, since it stays open; one that is changed in place is
noticed at the next read.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np

from roster.errors import RosterError

BLOCK = 4096
"""Bytes: what direct reads are aligned to."""
CHUNK = 2**20
"""Bytes that one read asks for at most; where reads go past the cache, each thread keeps that much memory."""
HELPERS = 3
"""Threads that share in large reads: a disk gives more to several requests at a time."""


class Files:
    """Files that stay open, and are read at any place by any thread.

    Args:
        files: all that will be read.
        direct: past the system's cache (O_DIRECT), for checkpoints that would crowd it; where the file system cannot,
            reads go through the cache, and `direct` becomes False.

    Raises:
        RosterError: one cannot be opened.
    """

    def __init__(self, files: Iterable[Path], direct: bool = False) -> None:
        self._opened: dict[Path, int] = {}
        self._direct: dict[Path, int] = {}
        self._state: dict[Path, tuple[int, int]] = {}
        self._local = threading.local()
        self._helpers = ThreadPoolExecutor(HELPERS, "roster-reader")
        for file in files:
            try:
                self._opened[file] = os.open(file, os.O_RDONLY)
            except OSError as error:
                self.close()
                raise RosterError(f"{str(file)!r} cannot be read: {error.strerror}") from None
            self._state[file] = self._now(file)
            if direct:
                direct = self._open_direct(file)
        self.direct = direct

    def read(self, file: Path, offset: int, into: memoryview) -> None:
        """Fills `into` with the bytes from `offset` on.

        Raises:
            RosterError: the file was changed since it was opened, ends early, or cannot be read.
        """
        try:
            self._all_at_it(file, _pieces(offset, into))
        except OSError as error:
            raise RosterError(f"{str(file)!r} cannot be read: {error.strerror}") from None
        if self._now(file) != self._state[file]:  # afterwards: what was read before a change is whole
            raise RosterError(f"{str(file)!r} was changed while the model is served from it: load the model again")

    def close(self) -> None:
        """Nothing can be read any more."""
        self._helpers.shutdown()
        for opened in (self._opened, self._direct):
            while opened:
                os.close(opened.popitem()[1])

    def _all_at_it(self, file: Path, pieces: list[tuple[int, memoryview]]) -> None:
        """This thread reads pieces until there are none, and so do helpers that have nothing else to do."""
        left = iter(pieces)  # each `next` is one step under the interpreter's lock: no piece is taken twice
        read = self._past_the_cache if self.direct else self._through_the_cache

        def work() -> None:
            for offset, into in left:
                read(file, offset, into)

        helping = [self._helpers.submit(work) for _ in range(min(HELPERS, len(pieces) - 1))]
        try:
            work()
        finally:
            late = [each for each in helping if not each.cancel()]  # one that has not begun would find nothing to do
            wait(late)
        for each in late:
            each.result()

    def _through_the_cache(self, file: Path, offset: int, into: memoryview) -> None:
        while into:
            got = os.preadv(self._opened[file], [into], offset)
            if got == 0:
                raise RosterError(f"{str(file)!r} became shorter while the model is served from it: load it again")
            into, offset = into[got:], offset + got

    def _past_the_cache(self, file: Path, offset: int, into: memoryview) -> None:
        staging = self._staging()
        while into:
            start = offset - offset % BLOCK
            ahead = offset - start
            wanted = min(-(-(ahead + len(into)) // BLOCK) * BLOCK, CHUNK)
            got = os.preadv(self._direct[file], [staging[:wanted]], start) - ahead
            if got <= 0:
                raise RosterError(f"{str(file)!r} became shorter while the model is served from it: load it again")
            take = min(got, len(into))
            # numpy copies without the interpreter's lock, which the thread that computes needs.
            np.frombuffer(into, np.uint8, take)[:] = np.frombuffer(staging, np.uint8, take, ahead)
            into, offset = into[take:], offset + take

    def _staging(self) -> memoryview:
        if not hasattr(self._local, "staging"):
            self._local.staging = memoryview(mmap.mmap(-1, CHUNK))  # page-aligned, as direct reads ask for
        held: memoryview = self._local.staging
        return held

    def _open_direct(self, file: Path) -> bool:
        try:
            self._direct[file] = os.open(file, os.O_RDONLY | getattr(os, "O_DIRECT", 0))
            os.preadv(self._direct[file], [self._staging()[:BLOCK]], 0)
        except OSError:  # EINVAL: this file system has no direct reads
            return False
        return hasattr(os, "O_DIRECT")

    def _now(self, file: Path) -> tuple[int, int]:
        stat = os.fstat(self._opened[file])
        return stat.st_size, stat.st_mtime_ns


def _pieces(offset: int, into: memoryview) -> list[tuple[int, memoryview]]:
    """A range cut where blocks begin, into pieces that one read can give; the parts of `into` that they belong to."""
    found = []
    while into:
        size = CHUNK - offset % BLOCK
        found.append((offset, into[:size]))
        into, offset = into[size:], offset + size
    return found
