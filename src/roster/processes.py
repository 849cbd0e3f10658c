"""Processes that compute the parts of one batch: what must be known of all of it, and how gradients come back.

The convention is that of data parallelism: every process computes the loss of its own part, and the gradient that
counts is the mean of theirs. A value that is summed over processes here belongs to each one's loss, so its gradient is
the sum of what all of them ask for; their mean is then that of one process with the whole batch.

All processes of a group must make the same calls in the same order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroup


def total(value: Tensor, group: ProcessGroup | None) -> Tensor:
    """The sum of a tensor over the processes of a group; the tensor itself where there is no group."""
    if group is None:
        return value
    summed: Tensor = _Total.apply(value, group)  # type: ignore[no-untyped-call]  # torch's has no annotations
    return summed


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        summed = value.detach().clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(summed, group=group)
        return summed

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return total(grad, ctx.group), None


def is_first() -> bool:
    """Whether this process is the first of its run, or the only one: the one that speaks, and writes what all share."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def wait_for_all() -> None:
    """Returns when every process of the run is here."""
    if distributed.is_initialized():
        distributed.barrier()


def one_after_the_other(value_N: Tensor, group: ProcessGroup) -> tuple[Tensor, slice]:
    """The vectors of all processes in the order of their ranks, and which part of it is this process's own.

    Args:
        value_N: of one dimension, of any length; no gradient goes through.
        group: of the processes.
    """
    world, rank = distributed.get_world_size(group), distributed.get_rank(group)
    length_W = value_N.new_zeros(world, dtype=torch.int64)
    length_W[rank] = len(value_N)
    distributed.all_reduce(length_W, group=group)
    lengths = length_W.tolist()
    padded = value_N.new_zeros(max(lengths))
    padded[: len(value_N)] = value_N.detach()
    found = [torch.empty_like(padded) for _ in range(world)]
    distributed.all_gather(found, padded, group=group)
    whole = torch.cat([each[:length] for each, length in zip(found, lengths, strict=True)])
    start = sum(lengths[:rank])
    return whole, slice(start, start + len(value_N))
