"""Large tensors in memory that an earlier one has given back.

A training step makes gradients as large as all experts and drops them after the optimiser's step. The system's
allocator returns pieces of more than 32 MB at once and fetches untouched ones for the next step; writing to those for
the first time took up to a quarter of a step. Here the memory is kept, up to `KEEP` bytes; what was given back longest
ago makes room.

What torch's own operations make is smaller, and the allocator's business: see `_settle_allocator`.
"""

from __future__ import annotations

import ctypes
import math
import os
import platform
import weakref
from functools import cache

import torch
from torch import Tensor

KEEP = 2**31
SMALLEST = 2**20
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # as malloc.h numbers them

_free: dict[int, Tensor] = {}  # by address; single operations on it are safe among threads


def empty(like: Tensor, *shape: int) -> Tensor:
    """An uninitialised tensor of `like`'s dtype on its device; on processors in kept memory where some fits.

    It is an ordinary tensor, except that its storage cannot be resized. When nothing refers to its storage any more,
    the memory is kept for the next call; `release` returns what is kept.
    """
    size = math.prod(shape) * like.element_size()
    if like.device.type != "cpu" or size < SMALLEST:
        return like.new_empty(shape)
    _settle_allocator()
    region = _take(size)
    # Torch holds the array for as long as any tensor or view uses the storage.
    lease = region.numpy()
    weakref.finalize(lease, _give_back, region).atexit = False
    # Resized, not viewed: a view keeps what it is a view of, and autograd adds in place only to storage with one user.
    return torch.frombuffer(lease, dtype=like.dtype, count=math.prod(shape)).resize_(shape)


def release() -> None:
    """Returns all kept memory that no tensor uses to the system."""
    _free.clear()


@cache
def _settle_allocator() -> None:
    """Tells the GNU allocator to keep what a step frees and the next step asks for again.

    By itself it returns what is free at the end of its heap, more than 128 KB at first and 64 MB at most, and whether
    a layer's tensors lie there is chance: where they do, their pages are fetched anew in every step, which took as
    long as the whole routing. Whoever has set the allocator by the environment is left alone.
    """
    if platform.libc_ver()[0] == "glibc" and not any(name.startswith("MALLOC_") for name in os.environ):
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, 2**25)
        libc.mallopt(_TRIM_THRESHOLD, 2**30)


def _take(size: int) -> Tensor:
    for address, region in sorted(_free.copy().items(), key=lambda item: len(item[1])):
        if size <= len(region) <= 2 * size and _free.pop(address, None) is not None:
            return region
    coarse = 1 << max(0, size.bit_length() - 4)  # so that the next call, for a few rows more, fits as well
    return torch.empty(-(-size // coarse) * coarse, dtype=torch.uint8)


def _give_back(region: Tensor) -> None:
    if len(region) > KEEP:
        return
    _free[region.data_ptr()] = region
    for address in list(_free):  # oldest first
        if sum(map(len, _free.copy().values())) <= KEEP:
            break
        _free.pop(address, None)
