"""A block of an existing mixture as a composition of roster's own parts, with copies of its weights.

What comes out is a plain `MoE` (beside a `Dense` shared expert, where there is one): each part can be looked at,
changed, or put elsewhere. What is read is checked: parts that do not answer as the block does are refused.

Shape legend: R rows, E experts, D model width, F expert width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from roster.context import Context
from roster.dispatch.activation import ELEMENTWISE, GATED
from roster.errors import RosterError
from roster.experts import MLP, FeedForwardExperts, Gated
from roster.moe.blocks import Kind, read_block
from roster.moe.dense import Dense, Sum
from roster.moe.gates import router_of
from roster.moe.layer import MoE
from roster.moe.own_experts import OneByOne, Stacked, held_by, reader_of

_PROBES = 16
_SHARED = ("shared_experts", "shared_expert")


def parts_of(block: nn.Module, name: str = "mixture") -> nn.Module:
    """A block taken apart.

    Args:
        block: of a transformers model, with a gate and `experts`.
        name: its name, for messages and as the router's site.

    Returns:
        `(x_BSD, context) -> [B, S, D]`, with the block's own weights, copied.

    Raises:
        RosterError: a router or experts that are not compositions of roster's parts.
    """
    experts, _ = held_by(block)
    parts: list[nn.Module] = [MoE(router_of(block, name), experts_of(experts, name))]
    for each in _SHARED:
        if hasattr(block, each):
            kind = read_block(getattr(block, each))
            if kind is None:
                raise RosterError(f"the shared expert of {name!r} is not a feed-forward block known to roster")
            parts.append(Dense(_filled(kind, [kind])))
    made = parts[0] if len(parts) == 1 else Sum(*parts)
    _check(block, made.to(next(block.parameters()).device), name)
    return made.train(block.training)


def experts_of(experts: Any, name: str = "mixture") -> FeedForwardExperts:
    """Experts as roster's own kind, with copies of their weights.

    Raises:
        RosterError: they compute something else.
    """
    reader = reader_of(experts)
    if isinstance(reader, OneByOne):
        found = [read_block(experts[f"expert_{index}"]) for index in range(experts.num_experts)]
        kinds = [kind for kind in found if kind is not None]
        if len(kinds) == len(found):
            return _filled(kinds[0], kinds)
    if isinstance(reader, Stacked):
        E, D, _ = reader.sizes(experts)
        x_RD = torch.randn(E * 2, D, generator=torch.Generator().manual_seed(0)).to(experts.down_proj)
        counts_E = torch.full((E,), 2, device=x_RD.device)
        with torch.no_grad():
            theirs = reader.rows(experts, x_RD, counts_E)
            for made in _candidates(experts, reader):
                scale = float(theirs.abs().max())
                if torch.allclose(made(x_RD, counts_E), theirs, atol=1e-5 * scale, rtol=0.0):
                    return made
    raise RosterError(f"{type(experts).__name__} at {name!r} compute something that no experts of roster do")


def _filled(kind: Kind, kinds: Sequence[Kind]) -> FeedForwardExperts:
    made = kind.make_experts(len(kinds), kind.hidden)
    for key in kind.matrices:
        stack = torch.stack([each.matrices[key] for each in kinds])
        setattr(made, "_E".join(key.rsplit("_", 1)), nn.Parameter(stack.contiguous()))
    return made


def _candidates(experts: Any, reader: Stacked) -> Iterator[FeedForwardExperts]:
    """Experts with these weights, for every order of gate and up and every activation."""
    E, D, F = reader.sizes(experts)
    down = {"down_EFD": experts.down_proj if experts.is_transposed else experts.down_proj.mT}
    if experts.has_bias:
        down["down_bias_ED"] = experts.down_proj_bias
    first = "gate_up_proj" if experts.has_gate else "up_proj"
    weight = getattr(experts, first)
    both = weight if experts.is_transposed else weight.mT
    bias = getattr(experts, f"{first}_bias") if experts.has_bias else None
    if not experts.has_gate:
        given = down | {"up_EDF": both} | ({} if bias is None else {"up_bias_EF": bias})
        yield from (_with(MLP(E, D, F, act, bias is not None), given) for act in ELEMENTWISE)
        return
    for gate, up in ((slice(None, F), slice(F, None)), (slice(0, None, 2), slice(1, None, 2))):
        given = down | {"gate_EDF": both[..., gate], "up_EDF": both[..., up]}
        if bias is not None:
            given |= {"gate_bias_EF": bias[..., gate], "up_bias_EF": bias[..., up]}
        yield from (_with(Gated(E, D, F, act, bias is not None), given) for act in (*ELEMENTWISE, *GATED))


def _with(made: FeedForwardExperts, tensors: dict[str, Tensor]) -> FeedForwardExperts:
    for key, tensor in tensors.items():
        setattr(made, key, nn.Parameter(tensor.detach().clone(memory_format=torch.contiguous_format)))
    return made


@torch.no_grad()
def _check(block: nn.Module, made: nn.Module, name: str) -> None:
    weight = next(block.parameters())
    experts, reader = held_by(block)
    x_BSD = torch.randn(1, _PROBES, reader.sizes(experts)[1]).to(weight)
    training = block.training
    theirs = block.eval()(x_BSD)
    block.train(training)
    theirs = theirs[0] if isinstance(theirs, tuple) else theirs
    ours = made.eval()(x_BSD, Context(1, _PROBES))
    if not torch.allclose(ours, theirs, atol=1e-4 * float(theirs.abs().max()), rtol=0.0):
        raise RosterError(
            f"{type(block).__name__} at {name!r} does more than route and add shared experts (they are weighted, "
            "or something is normalised): its parts alone do not answer as it does"
        )
