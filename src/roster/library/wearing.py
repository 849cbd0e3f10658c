"""A base that wears one adapter for a while, by hooks: nothing is attached, and nothing of the base is changed.

With a soft prompt it can read, and not write.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from roster.errors import RosterError
from roster.experts.virtual_tokens import VirtualTokens, own_tokens, positions
from roster.library.adapter import Adapter, LowRank, Rescaled
from roster.library.dora import layer_of, on_layer


@contextmanager
def wearing(model: nn.Module, adapter: Adapter | None) -> Iterator[None]:
    """The base with one adapter, for the duration of a with-block; with None the base as it is."""
    hooks: list[Any]
    layers = {} if adapter is None else {name: model.get_submodule(name) for name in adapter.modules}
    updates = {} if adapter is None else {name: on_layer(adapter.modules[name], layers[name], name) for name in layers}
    hooks = [layers[name].register_forward_hook(_Update(update).after) for name, update in updates.items()]
    if adapter is not None and adapter.prompt_VD is not None:
        prompt = _Prompt(adapter)
        hooks.append(model.register_forward_pre_hook(prompt.before, with_kwargs=True))
        hooks.append(model.register_forward_hook(prompt.after))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Prompt:
    """What a soft prompt puts before a call's rows."""

    def __init__(self, adapter: Adapter):
        self.tokens = VirtualTokens([adapter.prompt_VD])
        self.length = 0

    def before(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
        """Forward pre-hook of the model."""
        inputs = {**dict(zip(("input_ids", "attention_mask"), args, strict=False)), **kwargs}
        if inputs.get("past_key_values") is not None or inputs.get("position_ids") is not None:
            raise RosterError("a base that wears a soft prompt reads, and writes nothing: attach it to have it write")
        given = next(each for name in ("input_ids", "inputs_embeds") if (each := inputs.get(name)) is not None)
        self.length = given.shape[1]
        self.tokens.to(given.device)
        self.tokens.put_before(inputs, model.get_input_embeddings(), torch.ones(len(given), 1, device=given.device))
        if "position_ids" in inspect.signature(model.forward).parameters:
            inputs["position_ids"] = positions(inputs["attention_mask"])
        return (), {**inputs, "use_cache": False}

    def after(self, model: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Forward hook of the model."""
        return own_tokens(output, self.length)


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
