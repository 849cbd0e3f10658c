"""Architectures of transformers that hold mixtures, as a table: of which dense family each is the sparse sibling, what
it can express, and how its tensors are called.

Shape legend: E experts, D model width, F expert width, G width of a shared expert.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Blocks:
    """The mixtures of a model, read off roster's parts; all of one shape.

    Attributes:
        num_experts, k, hidden, shared: E, experts per token, F, and G (0 for no shared expert).
        normalised: whether a token's weights sum to 1.
        routed: numbers of the layers that are mixtures.
        layers: how many layers there are.
        tensors: of each routed layer: `gate_ED`, `gate_EDF`, `up_EDF`, `down_EFD`, and of a shared expert `gate_DG`,
            `up_DG`, `down_GD`.
    """

    num_experts: int
    k: int
    hidden: int
    shared: int
    normalised: bool
    routed: tuple[int, ...]
    layers: int
    tensors: Mapping[int, Tensors]


@dataclass(frozen=True)
class Target:
    """An architecture that a mixture may be written as.

    Attributes:
        name: its classes are `{name}Config` and `{name}ForCausalLM`.
        families: model types of dense models whose other tensors it shares, by name and meaning.
        block: where a layer keeps its mixture.
        settings: what its config says of the mixtures.
        gate: name of the router's matrix in the block.
        raw_weights: whether weights that do not sum to 1 can be expressed.
        some_layers: whether dense layers may remain.
        shared: tensors of a shared expert by name in the block; None when there can be none.
        settings_alone: config values that make the rest of the model compute as its dense family does.
    """

    name: str
    families: tuple[str, ...]
    settings: Callable[[Blocks], dict[str, Any]]
    block: str = "mlp"
    gate: str = "gate.weight"
    raw_weights: bool = False
    some_layers: bool = False
    shared: Callable[[Tensors, Blocks], Tensors] | None = None
    settings_alone: Mapping[str, Any] | None = None

    def obstacle(self, blocks: Blocks) -> str | None:
        """What of a mixture this architecture cannot express; None when it can."""
        if blocks.shared and self.shared is None:
            return "has no shared expert"
        if not blocks.normalised and not self.raw_weights:
            return "always divides a token's weights by their sum (TopK(over='chosen'))"
        if len(blocks.routed) < blocks.layers and not self.some_layers:
            return f"has no dense layers, and only {len(blocks.routed)} of {blocks.layers} are mixtures"
        return None

    def tensors(self, own: Tensors, blocks: Blocks) -> Tensors:
        """A routed layer's tensors by their names in the target's block."""
        given = {
            self.gate: own["gate_ED"],
            "experts.gate_up_proj": torch.cat([own["gate_EDF"], own["up_EDF"]], dim=2).mT,
            "experts.down_proj": own["down_EFD"].mT,
        }
        return given if self.shared is None else given | self.shared(own, blocks)


def _mixtral(blocks: Blocks) -> dict[str, Any]:
    return {
        "num_local_experts": blocks.num_experts,
        "num_experts_per_tok": blocks.k,
        "intermediate_size": blocks.hidden,
    }


def _flex_olmo(blocks: Blocks) -> dict[str, Any]:
    return {
        "num_experts": blocks.num_experts,
        "num_experts_per_tok": blocks.k,
        "intermediate_size": blocks.hidden,
        "norm_topk_prob": blocks.normalised,
    }


def _qwen(blocks: Blocks) -> dict[str, Any]:
    return {
        "num_experts": blocks.num_experts,
        "num_experts_per_tok": blocks.k,
        "moe_intermediate_size": blocks.hidden,
        "norm_topk_prob": blocks.normalised,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [each for each in range(blocks.layers) if each not in blocks.routed],
    }


def _qwen2(blocks: Blocks) -> dict[str, Any]:
    return _qwen(blocks) | {"shared_expert_intermediate_size": blocks.shared or blocks.hidden}


def _gated_shared(own: Tensors, blocks: Blocks) -> Tensors:
    """Qwen2-MoE always has a shared expert, behind a sigmoid: of zeros, or with the half that a zero gate lets pass."""
    D = own["gate_ED"].shape[1]
    G = blocks.shared or blocks.hidden
    zeros_DG = own["gate_ED"].new_zeros(D, G)
    down_GD = own.get("down_GD", zeros_DG.T)
    return {
        "shared_expert.gate_proj.weight": own.get("gate_DG", zeros_DG).T,
        "shared_expert.up_proj.weight": own.get("up_DG", zeros_DG).T,
        "shared_expert.down_proj.weight": (down_GD * 2).T,  # sigmoid(0) = 1 / 2
        "shared_expert_gate.weight": own["gate_ED"].new_zeros(1, D),
    }


TARGETS: tuple[Target, ...] = (
    Target("Mixtral", ("llama", "mistral"), _mixtral),
    Target("Qwen3Moe", ("qwen3",), _qwen, raw_weights=True, some_layers=True),
    Target(
        "Qwen2Moe",
        ("llama",),
        _qwen2,
        raw_weights=True,
        some_layers=True,
        shared=_gated_shared,
        settings_alone={"qkv_bias": False},
    ),
    Target("Qwen2Moe", ("qwen2",), _qwen2, raw_weights=True, some_layers=True, shared=_gated_shared),
    Target("FlexOlmo", ("olmo2",), _flex_olmo, raw_weights=True),
    Target("GraniteMoe", ("granite",), _mixtral, block="block_sparse_moe", gate="router.weight"),
)
