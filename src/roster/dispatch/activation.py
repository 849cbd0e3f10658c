"""Activations between the first and the last matrix of an expert, with derivatives that need no graph.

Shape legend: R rows, F expert width. `inputs` are `(gate_RF, up_RF)` of a gated expert or `(up_RF,)` of a plain one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from roster.errors import RosterError, nearest

aten = torch.ops.aten


class Elementwise(NamedTuple):
    """A function of one number: its value, and its gradient times one that arrives."""

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor, Tensor], Tensor]


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


ELEMENTWISE: dict[str, Elementwise] = {
    "silu": Elementwise(F.silu, aten.silu_backward),
    "gelu": Elementwise(F.gelu, aten.gelu_backward),
    "gelu_tanh": Elementwise(_gelu_tanh, lambda g, x: aten.gelu_backward(g, x, approximate="tanh")),
    "quick_gelu": Elementwise(
        lambda x: x * torch.sigmoid(1.702 * x),
        lambda g, x: aten.silu_backward(g, 1.702 * x),
    ),
    "relu": Elementwise(F.relu, lambda g, x: aten.threshold_backward(g, x, 0)),
    "relu2": Elementwise(lambda x: F.relu(x).square(), lambda g, x: g * F.relu(x) * 2),
}

# Names under which transformers' configurations ask for the same functions.
ALIASES = {"swish": "silu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh"}


class Gating(NamedTuple):
    """A function of gate and up together: its value, and the value again with the gradients of both."""

    value: Callable[[Tensor, Tensor], Tensor]
    gradients: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, list[Tensor]]]


LIMIT = 7.0  # of the clamped SwiGLU


def clamped_swiglu(gate_RF: Tensor, up_RF: Tensor) -> Tensor:
    """`gate * sigmoid(1.702 gate) * (up + 1)` with `gate` at most 7 and `up` in [-7, 7] (GPT-OSS, OpenAI, 2025,
    arXiv:2508.10925, and its reference implementation)."""
    return ELEMENTWISE["quick_gelu"].value(gate_RF.clamp(max=LIMIT)) * (up_RF.clamp(-LIMIT, LIMIT) + 1)


def _clamped_swiglu_gradients(grad_RF: Tensor, gate_RF: Tensor, up_RF: Tensor) -> tuple[Tensor, list[Tensor]]:
    value, slope = ELEMENTWISE["quick_gelu"]
    low_RF, factor_RF = gate_RF.clamp(max=LIMIT), up_RF.clamp(-LIMIT, LIMIT) + 1
    first_RF = value(low_RF)
    grad_gate_RF = slope(grad_RF * factor_RF, low_RF).masked_fill_(gate_RF > LIMIT, 0.0)
    grad_up_RF = (grad_RF * first_RF).masked_fill_(up_RF.abs() > LIMIT, 0.0)
    return first_RF.mul_(factor_RF), [grad_gate_RF, grad_up_RF]


GATED: dict[str, Gating] = {"clamped_swiglu": Gating(clamped_swiglu, _clamped_swiglu_gradients)}


def known(name: str, *, gated: bool) -> str:
    """The name under which an activation is kept here.

    Raises:
        RosterError: there is none of that name for experts of this form.
    """
    name = ALIASES.get(name, name)
    names = {*ELEMENTWISE, *(GATED if gated else ())}
    if name not in names:
        form = "gated" if gated else "plain"
        raise RosterError(f"{form} experts have no activation {name!r}; {nearest(name, names | ALIASES.keys())}")
    return name


def activate(name: str, inputs: Sequence[Tensor], *, inplace: bool = False) -> Tensor:
    """The value, [R, F]; with `inplace` the inputs may be overwritten."""
    if name in GATED:
        return GATED[name].value(*inputs)
    first = F.silu(inputs[0], inplace) if name == "silu" else ELEMENTWISE[name].value(inputs[0])
    if len(inputs) == 1:
        return first
    # `relu` and the like return new memory, which is ours to write to when nobody needs a graph.
    return first.mul_(inputs[1]) if inplace else first * inputs[1]


def activate_backward(name: str, grad_RF: Tensor, inputs: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """The value again, and the gradients of the inputs."""
    if name in GATED:
        return GATED[name].gradients(grad_RF, *inputs)
    value, slope = ELEMENTWISE[name]
    if len(inputs) == 1:
        return value(inputs[0]), [slope(grad_RF, inputs[0])]
    gate_RF, up_RF = inputs
    first_RF = value(gate_RF)
    grad_gate_RF = slope(grad_RF * up_RF, gate_RF)
    grad_up_RF = grad_RF * first_RF
    return first_RF.mul_(up_RF), [grad_gate_RF, grad_up_RF]
