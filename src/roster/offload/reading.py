"""Reading a checkpoint by offset while a model is served from it: through the system's cache, or past it.

A file that is replaced under its name is served on as it was, since it stays open; one that is changed in place is
noticed at the next read.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Iterable
from pathlib import Path

from roster.errors import RosterError

BLOCK = 4096
"""Bytes: what direct reads are aligned to."""
CHUNK = 2**22
"""Bytes that one direct read asks for at most; each thread keeps that much memory."""


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
            if self.direct:
                self._past_the_cache(file, offset, into)
            else:
                self._through_the_cache(file, offset, into)
        except OSError as error:
            raise RosterError(f"{str(file)!r} cannot be read: {error.strerror}") from None
        if self._now(file) != self._state[file]:  # afterwards: what was read before a change is whole
            raise RosterError(f"{str(file)!r} was changed while the model is served from it: load the model again")

    def close(self) -> None:
        """Nothing can be read any more."""
        for opened in (self._opened, self._direct):
            while opened:
                os.close(opened.popitem()[1])

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
            into[:take] = staging[ahead : ahead + take]
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
