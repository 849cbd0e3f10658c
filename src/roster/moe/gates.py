"""The routers of existing mixtures as roster's parts: a linear score, and whichever selection decides as they do.

Which one that is, is found out and not looked up: a copy of the gate is given random weights, and the first selection
that makes the same decisions on random tokens is it.

Shape legend: T tokens, K chosen per token, E experts, D model width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from roster.balance import LossFreeBias
from roster.context import Context
from roster.errors import RosterError
from roster.moe.own_experts import held_by
from roster.routed.weightless import with_weights
from roster.router import Router
from roster.score import Linear, Offset
from roster.select import GroupedTopK, TopK

_PROBES = 32
_CORRECTIONS = ("e_score_correction_bias", "expert_bias")


class Tensors(NamedTuple):
    """What a gate decides by: a matrix [E, D], and where it has them a bias and a correction of the ranking, [E]."""

    weight: Tensor
    bias: Tensor | None
    correction: Tensor | None


def gate_of(block: nn.Module) -> nn.Module | None:
    """The child of a block that decides for its experts; None when it is not one module."""
    return next((child for name, child in block.named_children() if name in ("gate", "router")), None)


def router_of(block: nn.Module, name: str) -> Router:
    """A copy of a block's router as parts, with its weights.

    Args:
        block: around experts that roster can read.
        name: of the block, for messages and as the router's site.

    Raises:
        RosterError: no composition of roster's parts decides as it does.
    """
    gate = gate_of(block)
    own = None if gate is None else _tensors(gate)
    if gate is not None and own is not None:
        select = _selection_of(block, gate)
        if select is not None:
            return _assemble(own, select, name)
    kind = "without a gate of its own" if gate is None else type(gate).__name__
    raise RosterError(
        f"the router of {name!r} ({kind}) is not a composition of roster's parts: tried a linear score with "
        "TopK and GroupedTopK; give a router of another kind"
    )


def _selection_of(block: nn.Module, gate: nn.Module) -> nn.Module | None:
    """The simplest selection that decides as a gate does; None where there is none."""
    with with_weights():  # a model that is read from a folder is made where parameters have none
        twin = _random_twin(gate)
        tensors = _tensors(twin)
        if tensors is None:
            return None
        x_TD = torch.randn(_PROBES, tensors.weight.shape[1], generator=_generator())
        theirs_TE = _decide(block, twin, x_TD)
        if theirs_TE is None:
            return None
        selections = _selections(twin, len(tensors.weight))
        return next((each for each in selections if _same(_assemble(tensors, each, "twin"), x_TD, theirs_TE)), None)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _random_twin(gate: nn.Module) -> nn.Module:
    """A copy on the CPU with weights under which experts differ: fresh gates are often all zeros."""
    twin = copy.deepcopy(gate).to(dtype=torch.float32).to_empty(device="cpu").eval()  # it may be one without values yet
    generator = _generator()
    with torch.no_grad():
        for tensor in (*twin.parameters(), *twin.buffers()):
            if tensor.is_floating_point():
                spread = tensor.shape[-1] ** -0.5 if tensor.dim() > 1 else 0.1
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * spread)
    return twin


def _tensors(gate: nn.Module) -> Tensors | None:
    """The tensors of a gate; None where there is no single matrix."""
    linears = [each for each in gate.modules() if isinstance(each, nn.Linear)]
    holder = linears[0] if len(linears) == 1 else gate
    weight = getattr(holder, "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() != 2:
        return None
    correction = next((getattr(gate, n) for n in _CORRECTIONS if isinstance(getattr(gate, n, None), Tensor)), None)
    return Tensors(weight, getattr(holder, "bias", None), correction)


def _selections(gate: nn.Module, num_experts: int) -> Iterator[nn.Module]:
    """Selections that fit the gate's settings, the simplest first."""
    k = next((getattr(gate, n) for n in ("top_k", "num_experts_per_tok") if hasattr(gate, n)), 1)
    yield TopK(k, "chosen")
    yield TopK(k, "all")
    groups = int(getattr(gate, "num_group", None) or getattr(gate, "n_group", None) or 1)
    keep = int(getattr(gate, "topk_group", None) or 1)
    scale = float(getattr(gate, "routed_scaling_factor", None) or getattr(gate, "route_scale", None) or 1.0)
    if num_experts % groups or keep > groups:
        return
    for affinity in ("sigmoid", "softmax"):
        for group_score in ("best two", "best"):
            for normalise in (True, False):
                yield GroupedTopK(k, groups, keep, affinity, group_score, normalise, scale)
                yield GroupedTopK(k, 1, 1, affinity, group_score, normalise, scale)


def _assemble(tensors: Tensors, select: nn.Module, site: str) -> Router:
    weight, bias, correction = tensors
    linear = Linear(weight.shape[1], len(weight))
    linear.weight_ED = nn.Parameter(weight.detach().clone())
    score: nn.Module = linear
    if bias is not None:
        score = offset = Offset(linear, len(weight))
        offset.offset_E = nn.Parameter(bias.detach().clone())
    balance = []
    if correction is not None:
        balance = [LossFreeBias(len(weight))]
        balance[0].bias_E = correction.detach().clone().reshape(-1)
    return Router(score, select, balance, site)


@torch.no_grad()
def _decide(block: nn.Module, gate: nn.Module, x_TD: Tensor) -> Tensor | None:
    """What a gate decides, [T, E]; None when its answer is not understood."""
    experts, reader = held_by(block)
    E, _, _ = reader.sizes(experts)
    try:
        answer = gate(x_TD) if reader.flat else gate(x_TD[None])
    except (TypeError, ValueError, IndexError, RuntimeError):  # it wants to know more than the tokens
        return None
    if not isinstance(answer, tuple):
        return None
    chosen = [each for each in answer if isinstance(each, Tensor) and not each.is_floating_point()]
    weights = [each for each in answer if isinstance(each, Tensor) and each.is_floating_point()]
    for weight in weights:
        try:
            route = reader.route(experts, chosen[0], weight)
        except (RuntimeError, IndexError):  # the logits, and not the weights
            continue
        if route.num_tokens == len(x_TD) and route.expert_R.shape == route.weight_R.shape:
            return route.dense() if int(route.expert_R.max()) < E else None
    return None


@torch.no_grad()
def _same(router: Router, x_TD: Tensor, theirs_TE: Tensor) -> bool:
    ours_TE = router.eval()(x_TD, Context(1, len(x_TD))).dense()
    return ours_TE.shape == theirs_TE.shape and torch.allclose(ours_TE, theirs_TE, atol=1e-6, rtol=1e-5)


def settled_gate(block: nn.Module, router: Router) -> tuple[str, dict[str, Tensor] | None]:
    """The tensors with which a block's own gate would decide as a router does.

    Returns:
        (the gate's class, its tensors by their names in the block); None for tensors that do not exist: the gate has
        another selection, or no place for one of the router's tensors.
    """
    gate = gate_of(block)
    linear = router.score.inner if isinstance(router.score, Offset) else router.score
    if gate is None or type(linear) is not Linear:
        return type(gate).__name__, None
    twin = copy.deepcopy(gate).to(device="cpu", dtype=torch.float32).eval()
    places = _tensors(twin)
    if places is None:
        return type(gate).__name__, None
    biases = (getattr(part, "bias_E", None) for part in router.balance)
    given = Tensors(
        weight=linear.weight_ED,
        bias=router.score.offset_E if isinstance(router.score, Offset) else None,
        correction=next((each for each in biases if isinstance(each, Tensor)), None),
    )
    with torch.no_grad():
        for value, place in zip(given, places, strict=True):
            if place is None and value is not None and bool(value.any()):
                return type(gate).__name__, None
            if place is not None:
                place.copy_(torch.zeros_like(place) if value is None else value.reshape(place.shape))
    x_TD = torch.randn(_PROBES, linear.weight_ED.shape[1], generator=_generator())
    theirs_TE = _decide(block, twin, x_TD)
    ours = copy.deepcopy(router).to(device="cpu", dtype=torch.float32)
    if theirs_TE is None or not _same(ours, x_TD, theirs_TE):
        return type(gate).__name__, None
    own = next(name for name, child in block.named_children() if child is gate)
    dtypes = {name: tensor.dtype for name, tensor in gate.state_dict().items()}
    return type(gate).__name__, {f"{own}.{n}": t.to(dtypes[n]) for n, t in twin.state_dict().items()}
