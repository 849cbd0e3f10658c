"""A mixture on disk, as compression sees it: its routers and its experts' matrices by layer, whatever form they have.

Experts lie one by one (as published checkpoints of these families have them, and as transformers writes them) or fused,
all experts of a layer in one tensor of three axes; both are read as single matrices, and written one by one.

Shape legend: E experts, D model width, F expert width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from roster.errors import RosterError
from roster.header import Spec
from roster.weights import Checkpoint, Operand, Part, Views, open_checkpoint
from roster.weights.views import View

PARTS = ("gate", "up", "down")
"""Of a gated expert: ``down(act(gate(x)) * up(x))``."""


@dataclass(frozen=True)
class Family:
    """How an architecture calls its mixtures on disk.

    Attributes:
        block: where a layer keeps its mixture.
        parts: names of an expert's matrices.
    """

    block: str
    parts: Mapping[str, str]


_PROJECTIONS = {part: f"{part}_proj" for part in PARTS}
FAMILIES = {
    "mixtral": Family("block_sparse_moe", {"gate": "w1", "up": "w3", "down": "w2"}),
    "qwen2_moe": Family("mlp", _PROJECTIONS),
    "qwen3_moe": Family("mlp", _PROJECTIONS),
    "olmoe": Family("mlp", _PROJECTIONS),
}
COUNTS = ("num_local_experts", "num_experts")
"""How many experts there are: a family's published configs say it in one way, transformers in another."""
TOP_K = "num_experts_per_tok"


class Mixture:
    """A checkpoint of one of `FAMILIES`, known by its headers.

    Attributes:
        source: the checkpoint.
        family: how it calls things.
        count: the setting that says how many experts there are.
        layers: numbers of the layers that are mixtures.
        experts: E.
        top_k: experts that a token gets.
        width, hidden: D and F.
    """

    def __init__(self, source: Checkpoint) -> None:
        """Raises RosterError: another family, or tensors that its config promises and that are not there."""
        self.source = source
        kind = source.config.get("model_type")
        if kind not in FAMILIES:
            known = ", ".join(FAMILIES)
            raise RosterError(f"{source.name!r} is a {kind!r} model; mixtures that can be compressed: {known}")
        self.family = FAMILIES[kind]
        self.count = next((each for each in COUNTS if each in source.config), COUNTS[1])
        self.experts: int = self._setting(self.count)
        self.top_k: int = self._setting(TOP_K)
        found = {layer: self._router(layer) for layer in range(self._setting("num_hidden_layers"))}
        self._routers = {layer: name for layer, name in found.items() if name is not None}
        if not self._routers:
            raise RosterError(f"{source.name!r} has no layer with a router: there is nothing to compress")
        self.layers = tuple(self._routers)
        views: dict[str, View] = {}
        self._matrices = {
            (layer, expert, part): operand
            for layer in self.layers
            for expert in range(self.experts)
            for part, operand in self._expert(layer, expert, views).items()
        }
        self.views = Views(source.name, views)
        self.hidden, self.width = self.matrix(self.layers[0], 0, "gate").spec.shape
        for (layer, expert, part), operand in self._matrices.items():
            expected = (self.width, self.hidden) if part == "down" else (self.hidden, self.width)
            if isinstance(operand, Operand) and operand.spec.shape != expected:
                raise RosterError(
                    f"{source.name!r}: {part} of expert {expert}, layer {layer}: {operand.spec}, not {list(expected)}"
                )

    @property
    def config(self) -> dict[str, Any]:
        """`config.json`."""
        return self.source.config

    def matrix(self, layer: int, expert: int, part: str) -> Operand:
        """One matrix of an expert, [F, D], or for down [D, F]."""
        found = self._matrices[layer, expert, part]
        return Operand(self.views, found) if isinstance(found, str) else found

    def matrices(self, layer: int, expert: int) -> dict[str, Tensor]:
        """The three of them, read from disk, float32."""
        operands = {part: self.matrix(layer, expert, part) for part in PARTS}
        return {part: read(operand).float() for part, operand in operands.items()}

    def router(self, layer: int) -> Operand:
        """A layer's router, [E, D]."""
        return Operand(self.source, self._routers[layer])

    def others(self) -> dict[str, Spec]:
        """Every tensor that is neither an expert's nor a router."""
        inside = {operand.tensor for operand in self._matrices.values() if isinstance(operand, Operand)}
        inside |= {operand.tensor for view in self.views.views.values() for operand in view.of}
        inside |= set(self._routers.values())
        return {name: spec for name, spec in self.source.specs.items() if name not in inside}

    def router_name(self, layer: int) -> str:
        """What it is called in what is written."""
        return f"model.layers.{layer}.{self.family.block}.gate.weight"

    def matrix_name(self, layer: int, expert: int, part: str) -> str:
        """What an expert's matrix is called in what is written."""
        return f"model.layers.{layer}.{self.family.block}.experts.{expert}.{self.family.parts[part]}.weight"

    def _setting(self, name: str) -> int:
        found = self.config.get(name)
        if not isinstance(found, int) or found < 1:
            raise RosterError(f"{self.source.name!r}: config.json does not say {name}")
        return found

    def _router(self, layer: int) -> str | None:
        # transformers' own name, which fused checkpoints carry, besides the published one.
        for block in (self.family.block, "mlp"):
            name = f"model.layers.{layer}.{block}.gate.weight"
            if name in self.source.specs:
                if self.source.specs[name].shape[0] != self.experts:
                    raise RosterError(
                        f"{self.source.name!r}: {name!r} is {self.source.specs[name]}, but the config says "
                        f"{self.experts} experts"
                    )
                return name
        return None

    def _expert(self, layer: int, expert: int, views: dict[str, View]) -> dict[str, Operand | str]:
        """Its matrices: tensors of the checkpoint, or names of views, which are added."""
        names = {part: self.matrix_name(layer, expert, part) for part in PARTS}
        specs = self.source.specs
        if all(name in specs for name in names.values()):
            return {part: Operand(self.source, name) for part, name in names.items()}
        at = f"model.layers.{layer}.mlp.experts"
        both, down = f"{at}.gate_up_proj", f"{at}.down_proj"
        if both not in specs or down not in specs:
            lost = next(name for name in names.values() if name not in specs)
            raise RosterError(f"{self.source.name!r} lacks the tensor {lost!r}, which its config promises")
        E, F2, D = specs[both].shape
        if self.experts != E or specs[down].shape != (E, D, F2 // 2):
            raise RosterError(
                f"{self.source.name!r}: {both!r} is {specs[both]} and {down!r} is {specs[down]}: these are not "
                f"{self.experts} experts"
            )
        F = F2 // 2
        parts = {
            "gate": Part(Operand(self.source, both), expert * F2 * D, (F, D)),
            "up": Part(Operand(self.source, both), (expert * F2 + F) * D, (F, D)),
            "down": Part(Operand(self.source, down), expert * D * F, (D, F)),
        }
        views.update({f"{layer}.{expert}.{part}": view for part, view in parts.items()})
        return {part: f"{layer}.{expert}.{part}" for part in parts}


def open_mixture(name: str | Path) -> Mixture:
    """A mixture by folder or hub name, looked at by its headers alone.

    Raises:
        RosterError: see `Mixture` and `roster.weights.open_checkpoint`.
    """
    return Mixture(open_checkpoint(name))


def read(operand: Operand) -> Tensor:
    """A whole tensor in its shape."""
    return operand.source.read(operand.tensor, 0, operand.spec.numel).view(operand.spec.shape)
