"""Large tensors in memory that an earlier one has given back.

A training step makes gradients as large as all experts and drops them after the optimiser's step. The system's
allocator returns pieces of more than 32 MB at once and fetches untouched ones for the next step; writing to those for
the first time took up to a quarter of a step. Here the memory is kept, up to `KEEP` bytes; what was given back longest
ago makes room.

What torch's own operations make is smaller, and the allocator's business: see `roster.allocator`.
"""

from __future__ import annotations

import math
import weakref

import torch
from torch import Tensor

from roster.allocator import keep_pieces

KEEP = 2**31
SMALLEST = 2**20

_free: dict[int, Tensor] = {}  # by address; single operations on it are safe among threads


def empty(like: Tensor, *shape: int) -> Tensor:
    """An uninitialised tensor of `like`'s dtype on its device; on processors in kept memory where some fits.

    It is an ordinary tensor, except that its storage cannot be resized. When nothing refers to its storage any more,
    the memory is kept for the next call; `release` returns what is kept.
    """
    size = math.prod(shape) * like.element_size()
    if like.device.type != "cpu" or size < SMALLEST:
        return like.new_empty(shape)
    keep_pieces()
    region = _take(size)
    # Torch holds the array for as long as any tensor or view uses the storage.
    lease = region.numpy()
    weakref.finalize(lease, _give_back, region).atexit = False
    # Resized, not viewed: a view keeps what it is a view of, and autograd adds in place only to storage with one user.
    return torch.frombuffer(lease, dtype=like.dtype, count=math.prod(shape)).resize_(shape)


def release() -> None:
    """Returns all kept memory that no tensor uses to the system."""
    _free.clear()


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
