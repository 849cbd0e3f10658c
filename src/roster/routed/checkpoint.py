"""Carrying the context across activation recomputation, for both kinds of `torch.utils.checkpoint`.

A checkpointed block runs again during the backward pass, after the forward call is over and possibly in another
thread: it must find the context of its own call. And the reentrant kind passes gradients only to tensors that it is
given as arguments: gates that a router outside the block has computed (X-LoRA's classifier, a block's router) would
silently get none if the block picked them up from the context. So the context's tensors go in as arguments, and
what the block writes comes out as results.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from roster.context import ContextSlot


@dataclass(frozen=True)
class CarryContext:
    """A checkpoint function, `(function, *args) -> output`, under which `function` sees the same context twice.

    An object and not a closure, so that a deep copy of a model carries the context of the copy.

    Attributes:
        checkpoint: what does the checkpointing.
        slot: of the model.
    """

    checkpoint: Callable[..., Any]
    slot: ContextSlot

    def __call__(self, function: Callable[..., Any], *args: Any) -> Any:
        """Runs `function` on `args`, now and once more in the backward pass."""
        context = self.slot.current
        if not torch.is_grad_enabled():
            return function(*args)  # the first of two passes: nothing will be recomputed
        if context is None:
            return self.checkpoint(function, *args)
        leaves, spec = pytree.tree_flatten(context.memory)
        known = set(context.memory)
        layout: dict[str, Any] = {}

        def run(*inputs: Any) -> tuple[Any, ...]:
            memory = pytree.tree_unflatten(list(inputs[len(args) :]), spec)
            fork = context.fork(memory)
            if layout:
                fork.recorder = None  # the second run is no second decision
            with self.slot.use(fork):
                output = function(*inputs[: len(args)])
            written = {key: value for key, value in fork.memory.items() if key not in known}
            flat, layout["spec"] = pytree.tree_flatten((output, written))
            return tuple(flat)

        flat = self.checkpoint(run, *args, *leaves)
        output, written = pytree.tree_unflatten(list(flat), layout["spec"])
        context.memory.update(written)
        return output
