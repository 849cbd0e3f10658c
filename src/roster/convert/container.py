"""Containers: architectures of transformers that hold the mixture a dense model of Llama's kind becomes, exactly.

A conversion says what each expert's matrices are and by which number they are multiplied; a container says how they are
called, what its config must say, and what it multiplies by itself. Each chooses the k best scores and divides a
token's weights by their sum, so that equal experts are the dense block again, whoever is chosen.

Shape legend: E experts, D model width, F expert width, G width of the shared expert.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from roster.convert.dense import PARTS, Dense
from roster.convert.kernels import Given, Scaled
from roster.errors import RosterError, nearest
from roster.header import Spec
from roster.merge.side_files import model_files
from roster.weights import Copy, Kernel, Operand, Output, Stack, Views

BALANCE = 0.01
_KEPT = (
    "attention_dropout", "bos_token_id", "eos_token_id", "head_dim", "hidden_act", "hidden_size", "initializer_range",
    "max_position_embeddings", "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "pad_token_id",
    "rms_norm_eps", "rope_parameters", "rope_scaling", "rope_theta", "sliding_window", "tie_word_embeddings", "dtype",
    "torch_dtype", "use_cache", "vocab_size",
)  # fmt: skip


@dataclass(frozen=True)
class Expert:
    """Gated: ``down(act(gate(x)) * up(x))``.

    Attributes:
        parts: its matrices, [F, D], and for down [D, F].
        factors: what up and down are multiplied by; 1 where nothing is said.
    """

    parts: Mapping[str, Operand]
    factors: Mapping[str, float]

    def factor(self, part: str) -> float:
        """Of one matrix."""
        return self.factors.get(part, 1.0)


@dataclass(frozen=True)
class Sizes:
    """Of the mixtures of a model, one for all layers.

    Attributes:
        experts, top_k, width: E, experts that a token gets, F.
        shared: G; 0 for no shared expert.
        normalised: whether a token's weights sum to 1.
    """

    experts: int
    top_k: int
    width: int
    shared: int = 0
    normalised: bool = True

    def __post_init__(self) -> None:
        """Raises RosterError: numbers of experts that cannot be."""
        if self.experts < 1 or not 1 <= self.top_k <= self.experts:
            raise RosterError(f"{self.top_k} of {self.experts} experts a token: it must be from 1 to their number")


class Container(Protocol):
    """One architecture.

    Attributes:
        name: what `container=` calls it.
        shared: whether it has a shared expert that is always on; it then must be given.
        raw: whether weights that do not sum to 1 can be expressed.
    """

    name: str
    shared: bool
    raw: bool

    def router(self, layer: int) -> str:
        """The router's name, [E, D]."""

    def outputs(self, layer: int, experts: Sequence[Expert], shared: Expert | None) -> Iterator[Output]:
        """A layer's matrices besides the router."""

    def settings(self, dense: Dense, sizes: Sizes) -> dict[str, Any]:
        """What its config says that the dense one's does not."""


class Mixtral:
    """Mixtral, in the names of its published checkpoints."""

    name, shared, raw = "mixtral", False, False
    _names = {"gate": "w1", "down": "w2", "up": "w3"}  # noqa: RUF012  # never changed

    def router(self, layer: int) -> str:
        """See `Container`."""
        return f"model.layers.{layer}.block_sparse_moe.gate.weight"

    def expert(self, layer: int, expert: int, part: str) -> str:
        """Name of an expert's matrix."""
        return f"model.layers.{layer}.block_sparse_moe.experts.{expert}.{self._names[part]}.weight"

    def outputs(self, layer: int, experts: Sequence[Expert], shared: Expert | None) -> Iterator[Output]:
        """See `Container`."""
        for number, each in enumerate(experts):
            yield from _outputs(each, {part: self.expert(layer, number, part) for part in PARTS})

    def settings(self, dense: Dense, sizes: Sizes) -> dict[str, Any]:
        """See `Container`."""
        return {
            "architectures": ["MixtralForCausalLM"],
            "model_type": "mixtral",
            "intermediate_size": sizes.width,
            "num_local_experts": sizes.experts,
            "num_experts_per_tok": sizes.top_k,
            "output_router_logits": False,
            "router_aux_loss_coef": BALANCE,
        }


class Qwen2Moe:
    """Qwen2-MoE without the biases that Qwen's own attention has.

    Its shared expert stands behind a sigmoid: a gate of zeros lets half pass, and the down projection is doubled.
    """

    name, shared, raw = "qwen2-moe", True, True

    def router(self, layer: int) -> str:
        """See `Container`."""
        return f"model.layers.{layer}.mlp.gate.weight"

    def outputs(self, layer: int, experts: Sequence[Expert], shared: Expert | None) -> Iterator[Output]:
        """See `Container`."""
        at = f"model.layers.{layer}.mlp"
        for number, each in enumerate(experts):
            yield from _outputs(each, {part: f"{at}.experts.{number}.{part}_proj.weight" for part in PARTS})
        always = _given(shared, self.name)
        doubled = Expert(always.parts, {**always.factors, "down": 2 * always.factor("down")})
        yield from _outputs(doubled, {part: f"{at}.shared_expert.{part}_proj.weight" for part in PARTS})
        spec = always.parts["gate"].spec
        gate = torch.zeros(1, spec.shape[1])
        yield Output(f"{at}.shared_expert_gate.weight", Spec(spec.dtype, tuple(gate.shape)), (), Given(gate))

    def settings(self, dense: Dense, sizes: Sizes) -> dict[str, Any]:
        """See `Container`."""
        _no_window(dense, self.name)
        return {
            "architectures": ["Qwen2MoeForCausalLM"],
            "model_type": "qwen2_moe",
            "intermediate_size": sizes.width,
            "moe_intermediate_size": sizes.width,
            "shared_expert_intermediate_size": sizes.shared,
            "num_experts": sizes.experts,
            "num_experts_per_tok": sizes.top_k,
            "norm_topk_prob": sizes.normalised,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "qkv_bias": False,
            "use_sliding_window": False,
            "output_router_logits": False,
            "router_aux_loss_coef": BALANCE,
        }


class GraniteMoeShared:
    """GraniteMoeShared with its multipliers at 1; experts lie fused."""

    name, shared, raw = "granite-moe-shared", True, False

    def router(self, layer: int) -> str:
        """See `Container`."""
        return f"model.layers.{layer}.block_sparse_moe.router.layer.weight"

    def outputs(self, layer: int, experts: Sequence[Expert], shared: Expert | None) -> Iterator[Output]:
        """See `Container`. Gate and up lie in one tensor, so that every factor goes to down."""
        at = f"model.layers.{layer}"
        always = _given(shared, self.name)
        down = experts[0].factor("up") * experts[0].factor("down")
        both = [_viewed(Stack([each.parts["gate"], each.parts["up"]], new_axis=False)) for each in experts]
        stacks = {
            "input_linear": (_viewed(Stack(both)), 1.0),
            "output_linear": (_viewed(Stack([each.parts["down"] for each in experts])), down),
        }
        for name, (operand, factor) in stacks.items():
            yield Output(f"{at}.block_sparse_moe.{name}.weight", operand.spec, (operand,), _times(factor))
        own = _viewed(Stack([always.parts["gate"], always.parts["up"]], new_axis=False))
        yield Output(f"{at}.shared_mlp.input_linear.weight", own.spec, (own,), Copy())
        out = always.parts["down"]
        factor = always.factor("up") * always.factor("down")
        yield Output(f"{at}.shared_mlp.output_linear.weight", out.spec, (out,), _times(factor))

    def settings(self, dense: Dense, sizes: Sizes) -> dict[str, Any]:
        """See `Container`."""
        _no_window(dense, self.name)
        heads, width = dense.config["num_attention_heads"], dense.config["hidden_size"]
        head = dense.config.get("head_dim") or width // heads
        return {
            "architectures": ["GraniteMoeSharedForCausalLM"],
            "model_type": "granitemoeshared",
            "intermediate_size": sizes.width,
            "shared_intermediate_size": sizes.shared,
            "num_local_experts": sizes.experts,
            "num_experts_per_tok": sizes.top_k,
            "attention_multiplier": head**-0.5,
            "embedding_multiplier": 1.0,
            "residual_multiplier": 1.0,
            "logits_scaling": 1.0,
            "tie_word_embeddings": bool(dense.config.get("tie_word_embeddings", False)),
            "output_router_logits": False,
            "router_aux_loss_coef": BALANCE,
        }


CONTAINERS: dict[str, Container] = {each.name: each for each in (Mixtral(), Qwen2Moe(), GraniteMoeShared())}


def find_container(name: str) -> Container:
    """By name; RosterError with the nearest names."""
    if name not in CONTAINERS:
        raise RosterError(f"unknown container {name!r}: {nearest(name, CONTAINERS)}")
    return CONTAINERS[name]


def side_files(dense: Dense, container: Container, sizes: Sizes) -> dict[str, bytes | Path]:
    """Config, tokenizer and generation settings of the mixture.

    Args:
        dense: the model it is made of.
        container: what it becomes.
        sizes: of its mixtures.
    """
    config: dict[str, Any] = {name: dense.config[name] for name in _KEPT if name in dense.config}
    config |= container.settings(dense, sizes)
    files = model_files(dense.source.folder)
    files["config.json"] = (json.dumps(config, indent=2) + "\n").encode()
    return files


def _outputs(expert: Expert, names: Mapping[str, str]) -> Iterator[Output]:
    for part, name in names.items():
        operand = expert.parts[part]
        yield Output(name, operand.spec, (operand,), _times(expert.factor(part)))


def _times(factor: float) -> Kernel:
    return Copy() if factor == 1 else Scaled(factor)


def _viewed(view: Stack) -> Operand:
    return Operand(Views(view.of[0].source.name, {"stack": view}), "stack")


def _given(shared: Expert | None, name: str) -> Expert:
    if shared is None:
        raise RosterError(f"{name} has a shared expert that is always on, and this conversion gives it none")
    return shared


def _no_window(dense: Dense, name: str) -> None:
    if dense.config.get("sliding_window"):
        raise RosterError(f"{dense.source.name!r} has a sliding window, which {name} cannot hold; mixtral can")
