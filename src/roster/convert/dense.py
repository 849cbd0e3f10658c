"""A dense checkpoint as a conversion sees it: which tensors are its feed-forward blocks, by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roster.errors import RosterError
from roster.weights import Checkpoint, Operand, Spec, open_checkpoint

FAMILIES = ("llama", "mistral")
PARTS = ("gate", "up", "down")
"""Of a gated feed-forward block: ``down(act(gate(x)) * up(x))``."""


@dataclass(frozen=True)
class Dense:
    """A checkpoint with gated feed-forward blocks.

    Attributes:
        source: it, known by its headers.
        blocks: per layer the tensors of its block, by part.
        width: hidden units of a block.
    """

    source: Checkpoint
    blocks: tuple[Mapping[str, str], ...]
    width: int

    @property
    def config(self) -> dict[str, Any]:
        """`config.json`."""
        return self.source.config

    def operand(self, layer: int, part: str) -> Operand:
        """One matrix of a layer's block."""
        return Operand(self.source, self.blocks[layer][part])

    def others(self) -> dict[str, Spec]:
        """Every tensor outside the blocks."""
        inside = {name for block in self.blocks for name in block.values()}
        return {name: spec for name, spec in self.source.specs.items() if name not in inside}


def open_dense(name: str | Path) -> Dense:
    """A dense checkpoint by folder or hub name, looked at by its headers alone.

    Raises:
        RosterError: no such checkpoint; another family; biases in the blocks or in attention, which the container has
            no place for; a layer without its block.
    """
    source = open_checkpoint(name)
    config = source.config
    family = config.get("model_type")
    if family not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise RosterError(f"{str(name)!r} is a {family!r} model; dense models that can be converted: {known}")
    for setting in ("mlp_bias", "attention_bias"):
        if config.get(setting):
            raise RosterError(f"{str(name)!r} has {setting}: Mixtral has no place for biases")
    layers = config.get("num_hidden_layers")
    if not isinstance(layers, int):
        raise RosterError(f"{str(name)!r}: config.json does not say num_hidden_layers")
    blocks = tuple({part: f"model.layers.{layer}.mlp.{part}_proj.weight" for part in PARTS} for layer in range(layers))
    for each in (name for block in blocks for name in block.values()):
        if each not in source.specs:
            raise RosterError(f"{str(name)!r} lacks the tensor {each!r}, which its config promises")
    return Dense(source, blocks, source.specs[blocks[0]["gate"]].shape[0])
