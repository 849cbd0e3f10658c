"""Feed-forward blocks of transformers models, recognised by their parts and not by the model's name.

Shape legend: D model width, F width of the block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import nn

from roster.errors import RosterError
from roster.experts import SwiGLU


@dataclass(frozen=True)
class Kind:
    """What a feed-forward block is made of.

    Attributes:
        width, hidden: D and F.
        make_experts: `(E, width of each) -> experts` of the same kind.
    """

    width: int
    hidden: int
    make_experts: Callable[[int, int], nn.Module]


def gated(block: nn.Module) -> Kind:
    """`down(act(gate x) * up x)`: Llama, Qwen3, Mistral, Gemma."""
    hidden, width = block.gate_proj.weight.shape
    return Kind(width, hidden, lambda count, each: SwiGLU(count, width, each))


# Names of the children that give a kind away.
KINDS: dict[frozenset[str], Callable[[nn.Module], Kind]] = {
    frozenset({"gate_proj", "up_proj", "down_proj"}): gated,
}


def find_blocks(model: nn.Module, layers: Iterable[int] | None = None) -> dict[str, Kind]:
    """The feed-forward blocks of a model by name, in the order of its layers.

    Args:
        model: a transformers model.
        layers: which of them, counted from 0; by default all.

    Raises:
        RosterError: no block is of a known kind, or a layer that the model does not have.
    """
    found = {}
    for name, module in model.named_modules():
        children = {child for child, _ in module.named_children()}
        read = next((read for parts, read in KINDS.items() if parts <= children), None)
        if read is not None:
            found[name] = read(module)
    if not found:
        known = "; ".join(", ".join(sorted(parts)) for parts in KINDS)
        raise RosterError(f"no feed-forward block of {type(model).__name__} is known to roster (parts: {known})")
    if layers is None:
        return found
    chosen = sorted(set(layers))
    if not chosen or chosen[0] < 0 or chosen[-1] >= len(found):
        raise RosterError(f"layers={chosen}: this model has feed-forward blocks 0 to {len(found) - 1}")
    names = list(found)
    return {names[index]: found[names[index]] for index in chosen}
