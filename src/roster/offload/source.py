"""Where experts come from when they are not in a slot: the checkpoint on disk, or the host's memory.

Both fill parts of experts, as bytes. A device other than the host's has its slots filled through a buffer in host
memory (pinned, on a stream of its own, where it is CUDA); `Staged` does that over either.
"""

from __future__ import annotations

import threading
from typing import Protocol

import torch
from torch import Tensor

from roster.offload.int8 import numbers, quantise
from roster.offload.layout import Key, Layout, Part
from roster.offload.reading import Files

_BLOCK = 2**23
"""Bytes of a matrix that are read before they are rounded."""


class Source(Protocol):
    """Fills parts of experts; called by several threads at once, each with memory of its own."""

    def fill(self, key: Key, part: int, into: Tensor) -> None:
        """Writes the part of that number of an expert into bytes, uint8 of its size; returns when it is there."""

    def close(self) -> None:
        """Lets go of files and memory."""


class Disk:
    """Read from the checkpoint, straight into the memory asked for where the types agree."""

    def __init__(self, layout: Layout, direct: bool = False) -> None:
        self.layout = layout
        pieces = (piece for site in layout.sites for part in site.parts for own in part.pieces for piece in own)
        self.files = Files(dict.fromkeys(piece.file for piece in pieces), direct)

    def fill(self, key: Key, part: int, into: Tensor) -> None:
        """See `Source.fill`; raises RosterError where the checkpoint was changed."""
        index, expert = key
        described = self.layout.sites[index].parts[part]
        if described.int8:
            self._quantised(described, expert, into)
            return
        whole = into.view(described.spec.dtype)
        for piece in described.pieces[expert]:
            target = whole[piece.at : piece.at + piece.spec.numel]
            same = piece.spec.dtype == target.dtype
            read = target if same else torch.empty(piece.spec.shape, dtype=piece.spec.dtype)
            self.files.read(piece.file, piece.offset, read.view(torch.uint8).numpy().data)
            if not same:
                target.copy_(read)

    def _quantised(self, part: Part, expert: int, into: Tensor) -> None:
        """Read some rows at a time: what is between has the size of `_BLOCK`."""
        columns = part.spec.shape[1]
        q_NK, s_N = numbers(into, part.spec.shape)
        for piece in part.pieces[expert]:
            first, step = piece.at // columns, max(1, _BLOCK // (columns * piece.spec.dtype.itemsize))
            for start in range(0, piece.spec.numel // columns, step):
                count = min(step, piece.spec.numel // columns - start)
                rows_NK = torch.empty(count, columns, dtype=piece.spec.dtype)
                offset = piece.offset + start * columns * piece.spec.dtype.itemsize
                self.files.read(piece.file, offset, rows_NK.view(torch.uint8).flatten().numpy().data)
                at = slice(first + start, first + start + count)
                quantise(rows_NK.to(part.spec.dtype), q_NK[at], s_N[at])

    def close(self) -> None:
        """Closes the files."""
        self.files.close()


class Host:
    """All experts in host memory, for slots on another device: read once, pinned where the device is CUDA."""

    def __init__(self, layout: Layout, disk: Disk, pin: bool) -> None:
        self._held: dict[tuple[Key, int], Tensor] = {}
        for index, site in enumerate(layout.sites):
            for expert in range(site.num_experts):
                for number, part in enumerate(site.parts):
                    held = torch.empty(part.nbytes, dtype=torch.uint8, pin_memory=pin)
                    disk.fill((index, expert), number, held)
                    self._held[(index, expert), number] = held
        disk.close()

    def fill(self, key: Key, part: int, into: Tensor) -> None:
        """See `Source.fill`."""
        into.copy_(self._held[key, part], non_blocking=True)

    def close(self) -> None:
        """Lets go of the memory."""
        self._held.clear()


class Staged:
    """Memory of another device, filled from the host: by `Host` itself, or from disk through a buffer of each thread.

    The copies of a thread run on a stream of its own, which only that thread waits for.
    """

    def __init__(self, source: Disk | Host, device: torch.device) -> None:
        self.source, self.device = source, device
        self._cuda = device.type == "cuda"
        self._local = threading.local()

    def fill(self, key: Key, part: int, into: Tensor) -> None:
        """See `Source.fill`."""
        if not self._cuda:
            self._copy(key, part, into)
            return
        with torch.cuda.stream(self._stream()):
            self._copy(key, part, into)
            self._stream().synchronize()

    def close(self) -> None:
        """Of what is behind."""
        self.source.close()

    def _copy(self, key: Key, part: int, into: Tensor) -> None:
        if isinstance(self.source, Host):
            self.source.fill(key, part, into)
            return
        buffer = self._buffer(len(into))
        self.source.fill(key, part, buffer)
        into.copy_(buffer, non_blocking=True)

    def _buffer(self, nbytes: int) -> Tensor:
        if len(getattr(self._local, "buffer", ())) < nbytes:
            self._local.buffer = torch.empty(nbytes, dtype=torch.uint8, pin_memory=self._cuda)
        buffer: Tensor = self._local.buffer
        return buffer[:nbytes]

    def _stream(self) -> torch.cuda.Stream:
        if not hasattr(self._local, "stream"):
            self._local.stream = torch.cuda.Stream(self.device)
        stream: torch.cuda.Stream = self._local.stream
        return stream
