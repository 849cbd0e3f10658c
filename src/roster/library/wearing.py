"""A base that wears one adapter for a while, by hooks: nothing is attached, and nothing of the base is changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from roster.library.adapter import Adapter, LowRank, Rescaled
from roster.library.dora import layer_of, on_layer


@contextmanager
def wearing(model: nn.Module, adapter: Adapter | None) -> Iterator[None]:
    """The base with one adapter, for the duration of a with-block; with None the base as it is."""
    layers = {} if adapter is None else {name: model.get_submodule(name) for name in adapter.modules}
    updates = {} if adapter is None else {name: on_layer(adapter.modules[name], layers[name], name) for name in layers}
    hooks = [layers[name].register_forward_hook(_Update(update).after) for name, update in updates.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Update:
    """What an adapter adds to one linear layer."""

    def __init__(self, update: LowRank):
        self.update = update

    def after(self, linear: nn.Module, args: tuple[Any, ...], y: Tensor) -> Tensor:
        """Forward hook of the layer."""
        if isinstance(self.update, Rescaled) and self.update.gain_I is not None:
            return y + layer_of(linear, args[0] * self.update.gain_I.to(args[0]))
        A_rI, B_Or = self.update.A_RD.to(y), self.update.B_OR.to(y)
        adapted: Tensor = y + args[0].to(y) @ A_rI.T @ B_Or.T * self.update.scale
        if isinstance(self.update, Rescaled):
            bias_O: Tensor | None = getattr(linear, "bias", None)
            own = y if bias_O is None or self.update.with_bias else y - bias_O
            adapted = adapted + self.update.gain_O.to(y) * own
        return adapted
