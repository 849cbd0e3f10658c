"""Feed-forward blocks of transformers models, recognised by their parts and not by the model's name.

A rule says which children are which matrix. What it reads is checked: an expert made of the block's own matrices must
answer as the block does on random tokens, so that a block that only looks familiar is refused.

Shape legend: D model width, F width of the block, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from roster.dispatch.activation import ELEMENTWISE
from roster.errors import RosterError
from roster.experts import MLP, FeedForwardExperts, Gated, SwiGLU

_PROBES = 8
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6}


@dataclass(frozen=True)
class Kind:
    """What a feed-forward block is made of.

    Attributes:
        width, hidden: D and F.
        make_experts: `(E, width of each) -> experts` of the same kind.
        matrices: the block's own, by the names that experts give theirs: `gate_DF`, `up_DF`, `down_FD`, `gate_bias_F`,
            `up_bias_F`, `down_bias_D`.
        emptied: modules beside the block that do part of its work, and are to do nothing once it is replaced.
    """

    width: int
    hidden: int
    make_experts: Callable[[int, int], FeedForwardExperts]
    matrices: Mapping[str, Tensor]
    emptied: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rule:
    """Which submodules of a block hold which matrix.

    Attributes:
        up, down: names of submodules.
        gate: of the gate's; the same as `up` when one matrix holds both.
        gate_first: of such a matrix, whether the gate is its first half.
        block: the submodule whose place the mixture takes; "" for the whole block.
        emptied: submodules that then do nothing.
    """

    up: str
    down: str
    gate: str | None = None
    gate_first: bool = True
    block: str = ""
    emptied: tuple[str, ...] = ()


RULES: tuple[Rule, ...] = (
    Rule("up_proj", "down_proj", gate="gate_proj"),  # Llama, Mistral, Qwen, Gemma, OLMo, SmolLM, ...
    Rule("gate_up_proj", "down_proj", gate="gate_up_proj"),  # Phi-3, GLM-4
    Rule("w3", "w2", gate="w1"),  # LFM2
    Rule("wi_1", "wo", gate="wi_0"),  # T5 v1.1, UMT5
    Rule("Wi", "Wo", gate="Wi"),  # ModernBERT
    Rule("up_proj", "down_proj"),  # Nemotron
    Rule("c_fc", "c_proj"),  # GPT-2, GPT-BigCode, StarCoder 2
    Rule("fc1", "fc2"),  # Phi, SigLIP, ViT-MAE
    Rule("fc_in", "fc_out"),  # GPT-J, CodeGen
    Rule("dense_h_to_4h", "dense_4h_to_h"),  # GPT-NeoX, Falcon
    Rule("wi", "wo"),  # T5
    Rule("lin1", "lin2"),  # DistilBERT
    # BERT, RoBERTa, ELECTRA: two modules of a layer; the second goes on to drop, add and normalise.
    Rule("intermediate.dense", "output.dense", block="intermediate", emptied=("output.dense",)),
)


def find_blocks(model: nn.Module, layers: Iterable[int] | None = None) -> dict[str, Kind]:
    """The feed-forward blocks of a model by name, in the order of its layers.

    Args:
        model: a transformers model.
        layers: which of them, counted from 0; by default all.

    Raises:
        RosterError: no block is of a known kind, or a layer that the model does not have.
    """
    found: dict[str, Kind] = {}
    refused: list[str] = []
    for name, module in model.named_modules():
        if any(name.startswith(f"{other}.") for other in found) or hasattr(module, "experts"):
            continue
        rules = list(_fitting(module))
        read = next(((rule, kind) for rule in rules if (kind := _read(module, rule, name)) is not None), None)
        if read is not None:
            rule, kind = read
            found[".".join(part for part in (name, rule.block) if part)] = kind
        elif rules:
            refused.append(f"{name!r} ({type(module).__name__})")
    if not found:
        _unknown(model, refused)
    if layers is None:
        return found
    chosen = sorted(set(layers))
    if not chosen or chosen[0] < 0 or chosen[-1] >= len(found):
        raise RosterError(f"layers={chosen}: this model has feed-forward blocks 0 to {len(found) - 1}")
    names = list(found)
    return {names[index]: found[names[index]] for index in chosen}


def read_block(block: nn.Module) -> Kind | None:
    """What a feed-forward block is made of; None when it is of no known kind."""
    return next((kind for rule in _fitting(block) if (kind := _read(block, rule, "")) is not None), None)


def _fitting(module: nn.Module) -> Iterator[Rule]:
    """Rules whose submodules a module has; one matrix for gate and up is tried either way round."""
    for rule in RULES:
        parts = [_child(module, name) for name in (rule.up, rule.down, rule.gate) if name is not None]
        if all(each is not None for each in parts):
            yield rule
            if rule.gate == rule.up:
                yield Rule(rule.up, rule.down, rule.gate, gate_first=False)


def _child(module: nn.Module, path: str) -> nn.Module | None:
    found: nn.Module | None = module
    for name in path.split("."):
        found = found._modules.get(name) if found is not None else None
    return found if isinstance(getattr(found, "weight", None), Tensor) else None


def _read(block: nn.Module, rule: Rule, name: str) -> Kind | None:
    """What a block is made of by a rule; None when it is not."""
    matrices = _matrices(block, rule)
    if matrices is None or not matrices["up_DF"].is_floating_point():
        return None
    D, F = matrices["up_DF"].shape
    emptied = tuple(f"{name}.{each}" if name else each for each in rule.emptied)
    for activation in _activations(block):
        make = _maker(D, activation, matrices)
        kind = Kind(D, F, make, matrices, emptied)
        if _answers_alike(block, rule, kind):
            return kind
    return None


def _matrices(block: nn.Module, rule: Rule) -> dict[str, Tensor] | None:
    """The block's matrices in the orientation of experts; None where the shapes do not fit together."""
    up_DX, up_bias = _affine(block, rule.up)
    down_FD, down_bias = _affine(block, rule.down)
    given: dict[str, Tensor | None] = {"up_DF": up_DX, "up_bias_F": up_bias}
    if rule.gate == rule.up:
        if up_DX.shape[1] != 2 * down_FD.shape[0]:
            return None
        order = ("gate", "up") if rule.gate_first else ("up", "gate")
        halves = zip(order, up_DX.chunk(2, dim=1), (None, None) if up_bias is None else up_bias.chunk(2), strict=True)
        given = {key: t for part, m, b in halves for key, t in ((f"{part}_DF", m), (f"{part}_bias_F", b))}
    elif rule.gate is not None:
        given["gate_DF"], given["gate_bias_F"] = _affine(block, rule.gate)
    given |= {"down_FD": down_FD, "down_bias_D": down_bias}
    matrices = {key: tensor.detach() for key, tensor in given.items() if tensor is not None}
    return matrices if matrices["up_DF"].shape == down_FD.T.shape else None


def _affine(block: nn.Module, path: str) -> tuple[Tensor, Tensor | None]:
    """(weight [in, out], bias [out] or None) of a child that has them."""
    linear: Any = block.get_submodule(path)
    # GPT-2 keeps its matrices the other way round.
    return (linear.weight.T if isinstance(linear, nn.Linear) else linear.weight), linear.bias


def _activations(block: nn.Module) -> list[str]:
    """The names of activations that a block may use: that of its parameterless child, by its values, or any."""
    x = torch.linspace(-4, 4, 65)
    own = []
    for module in block.modules():
        if not list(module.children()) and not list(module.parameters()) and not isinstance(module, nn.Dropout):
            try:
                own.append(module(x))
            except TypeError:  # not a function of one tensor
                continue
    alike = [n for n, each in ELEMENTWISE.items() if any(torch.allclose(each.value(x), y, atol=1e-6) for y in own)]
    return alike or list(ELEMENTWISE)


def _maker(width: int, activation: str, matrices: Mapping[str, Tensor]) -> Callable[[int, int], FeedForwardExperts]:
    bias = "up_bias_F" in matrices
    if "gate_DF" not in matrices:
        return lambda count, each: MLP(count, width, each, activation, bias)
    if activation == "silu" and not bias:
        return lambda count, each: SwiGLU(count, width, each)
    return lambda count, each: Gated(count, width, each, activation, bias)


@torch.no_grad()
def _answers_alike(block: nn.Module, rule: Rule, kind: Kind) -> bool:
    """Whether one expert with the block's matrices answers as the block does."""
    weight = kind.matrices["up_DF"]
    if weight.device.type == "meta":
        return True
    with torch.random.fork_rng(devices=[]):
        expert = kind.make_experts(1, kind.hidden).to(device=weight.device, dtype=weight.dtype)
        if {n.replace("_E", "_") for n, _ in expert.named_parameters()} != set(kind.matrices):
            return False  # a bias on some of the matrices only
        x_TD = torch.randn(_PROBES, kind.width).to(weight)
    for name, tensor in kind.matrices.items():
        getattr(expert, "_E".join(name.rsplit("_", 1)))[0] = tensor
    training = block.training
    block.eval()
    try:
        theirs = _child_or_self(block, rule.block)(x_TD[None])
        for each in rule.emptied:
            theirs = block.get_submodule(each)(theirs)
    except TypeError:  # it wants more than hidden states
        return False
    finally:
        block.train(training)
    ours = expert(x_TD, torch.tensor([_PROBES], device=weight.device))
    if not isinstance(theirs, Tensor) or theirs.shape[-2:] != ours.shape:
        return False
    tolerance = _TOLERANCE.get(weight.dtype, 3e-2) * float(theirs.abs().max().clamp_min(1e-6))
    return torch.allclose(theirs.view_as(ours), ours, atol=tolerance, rtol=0.0)


def _child_or_self(block: nn.Module, name: str) -> nn.Module:
    return block.get_submodule(name) if name else block


def _unknown(model: nn.Module, refused: list[str]) -> NoReturn:
    known = "; ".join(", ".join(dict.fromkeys(n for n in (r.gate, r.up, r.down) if n)) for r in RULES)
    hint = f"; {refused[0]} has such children, but computes something else" if refused else ""
    if any(hasattr(module, "experts") for module in model.modules()):
        hint += "; it is a mixture already: `roster.moe.adopt` takes it as it is"
    raise RosterError(
        f"no feed-forward block of {type(model).__name__} is known to roster: looked for modules with the children "
        f"{known}{hint}"
    )
