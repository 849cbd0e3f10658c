"""Routed attention: a model's own attention block as the only expert, which a token may go without.

Keys and values are computed for every token, so that a token that attends can read those that do not: skipping saves
the rest of the block, and all of it when no token of a call attends and no cache is filled.

Shape legend: B batch rows, S tokens per row, D model width, T = B * S.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from roster.context import ContextSlot
from roster.errors import RosterError
from roster.moe.blocks import Kind
from roster.routed.running import running
from roster.router import Router
from roster.select.allotted import ATTENTION

# Names of the children that give an attention block away, and the one whose input width is the model's.
_PARTS: dict[frozenset[str], str] = {
    frozenset({"q_proj", "k_proj", "v_proj"}): "q_proj",
    frozenset({"c_attn", "c_proj"}): "c_attn",
}


class RoutedAttention(nn.Module):
    """Takes the place of an attention block and scales what it adds to each token by the token's weight.

    Args:
        own: the model's attention block; returns its output [B, S, D], or a tuple that begins with it.
        router: over one expert, which is the block.
        slot: where the running call's context is found.
    """

    num_experts = 1

    def __init__(self, own: nn.Module, router: Router, slot: ContextSlot):
        super().__init__()
        self.own, self.router, self.slot = own, router, slot

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the model's own block is called."""
        hidden_BSD = args[0] if args else kwargs["hidden_states"]
        route = self.router(hidden_BSD.reshape(-1, hidden_BSD.shape[-1]), running(self.slot))
        gate_BS1 = route.dense().to(hidden_BSD.dtype).view(*hidden_BSD.shape[:2], 1)
        if self._idle(gate_BS1, kwargs):
            return torch.zeros_like(hidden_BSD), None
        output = self.own(*args, **kwargs)
        if isinstance(output, tuple):
            return (output[0] * gate_BS1, *output[1:])
        return output * gate_BS1

    def _idle(self, gate_BS1: Tensor, kwargs: dict[str, Any]) -> bool:
        """Whether nobody needs the block; on a device, finding out would cost more than it saves."""
        if self.training or kwargs.get("past_key_values") is not None or gate_BS1.device.type != "cpu":
            return False
        return not torch.compiler.is_compiling() and not bool(gate_BS1.any())


def find_attention(model: nn.Module, layers: Iterable[int] | None = None) -> dict[str, Kind]:
    """The attention blocks of a model by name, in the order of its layers.

    Args:
        model: a transformers model.
        layers: which of them, counted from 0; by default all.

    Raises:
        RosterError: no block is of a known kind, or a layer that the model does not have.
    """
    found = {}
    for name, module in model.named_modules():
        children = {child for child, _ in module.named_children()}
        reads = next((reads for parts, reads in _PARTS.items() if parts <= children), None)
        if reads is not None:
            weight = getattr(module, reads).weight
            # GPT-2 keeps its matrices the other way round.
            width = weight.shape[1] if isinstance(getattr(module, reads), nn.Linear) else weight.shape[0]
            found[name] = Kind(width, 0, _no_experts, {})
    if not found:
        known = "; ".join(", ".join(sorted(parts)) for parts in _PARTS)
        raise RosterError(f"no attention block of {type(model).__name__} is known to roster (parts: {known})")
    chosen = range(len(found)) if layers is None else sorted(set(layers))
    if not chosen or chosen[0] < 0 or chosen[-1] >= len(found):
        raise RosterError(f"layers={list(chosen)}: this model has attention blocks 0 to {len(found) - 1}")
    names = list(found)
    return {names[index]: found[names[index]] for index in chosen}


class _Keep:
    """A forward hook that puts the weights of an attention block into the running call's memory."""

    def __init__(self, slot: ContextSlot):
        self.slot = slot

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        running(self.slot).memory[ATTENTION] = output[1]


def keep_attention(model: Any, slot: ContextSlot) -> None:
    """Switches to "eager" attention and keeps the weights of the latest block in every call's memory.

    Args:
        model: a transformers model.
        slot: where the running call's context is found.
    """
    for name in find_attention(model):
        model.get_submodule(name).register_forward_hook(_Keep(slot))
    model.set_attn_implementation("eager")


def _no_experts(count: int, width: int) -> NoReturn:
    raise RosterError("an attention block is its own expert: a recipe for attention makes only a router")
