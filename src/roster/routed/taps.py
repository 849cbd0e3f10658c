"""Taps: hidden states of the base, read behind some of its blocks in a pass that ends where the last of them is.

A tap is a forward hook that every block keeps. It costs a look at a thread's own variable; only in a pass that `read`
began does it hand anything over. So a pass over a prompt stops at an early block, and no call carries the states of all
layers along.

Shape legend: B batch rows, S tokens, D width.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from roster.errors import RosterError

Take = Callable[[int, Tensor], None]
"""Called with the number of a block, counted from 1, and what came out of it, [B, S, D]."""


class _Enough(Exception):
    """The last block that was asked for has run."""


class Wish(threading.local):
    """What the running pass of this thread wants to see; one per model."""

    take: Take | None = None
    blocks: Collection[int] = ()

    def __reduce__(self) -> tuple[type[Wish], tuple[()]]:
        # A copy of a model wishes nothing yet.
        return (Wish, ())


class Tap(nn.Module):
    """The child of one block.

    Args:
        wish: of the model.
        number: of the block, counted from 1.
    """

    def __init__(self, wish: Wish, number: int):
        super().__init__()
        self.wish, self.number = wish, number

    def after(self, block: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Forward hook of the block."""
        take = self.wish.take
        if take is None:
            return
        if self.number in self.wish.blocks:
            take(self.number, output if isinstance(output, Tensor) else output[0])
        if self.number == max(self.wish.blocks):
            raise _Enough


def blocks_of(model: Any) -> list[tuple[str, nn.Module]]:
    """The blocks of a transformers model, by their names, in their order.

    Raises:
        RosterError: no list of as many modules as the config has layers.
    """
    count = model.config.get_text_config().num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return [(f"{name}.{index}", block) for index, block in enumerate(module)]
    raise RosterError(f"{type(model).__name__} has no list of {count} blocks, so its hidden states cannot be read")


def body_of(model: Any) -> Callable[..., Any]:
    """A model's forward without its head; one that has no head is its own body, past what roster puts in front."""
    body: Callable[..., Any] = model.base_model
    plain = getattr(type(model), "base_class", None)
    return body if body is not model or plain is None else functools.partial(plain.forward, model)


@torch.no_grad()
def read(model: Any, wish: Wish, body: dict[str, Any], blocks: Collection[int], take: Take) -> None:
    """Runs the base over some tokens, up to the last of the blocks.

    Args:
        model: a transformers model whose blocks have taps.
        wish: theirs.
        body: arguments of the model's forward; no cache is written unless they hold one.
        blocks: whose hidden states are wanted, counted from 1.
        take: is given them.
    """
    wish.take, wish.blocks = take, frozenset(blocks)
    try:
        body_of(model)(**{"use_cache": False, **body})
    except _Enough:
        pass
    finally:
        wish.take, wish.blocks = None, ()


@contextmanager
def tapped(model: Any) -> Iterator[Wish]:
    """Taps on a model that has none, for the duration of a with-block."""
    wish = Wish()
    hooks = [
        block.register_forward_hook(Tap(wish, number).after) for number, (_, block) in enumerate(blocks_of(model), 1)
    ]
    try:
        yield wish
    finally:
        for hook in hooks:
            hook.remove()
