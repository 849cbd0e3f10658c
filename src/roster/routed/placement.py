"""Where a part that roster adds is placed: the device and the type in which its neighbour computes."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

import torch
from torch import Tensor, nn

_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def computes_in(linear: nn.Module, model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Where a layer computes, and in what: not where, and in what, its weights rest when offloaded or quantised.

    Weights of eight bits or fewer say nothing of the type that the layer computes in, floating-point ones included; nor
    do layers without a `weight` (GPTQ, AWQ, HQQ). There it is the type of what the model has in full.
    """
    weight = getattr(linear, "weight", None)
    stored = weight.dtype if isinstance(weight, Tensor) else None
    dtype = stored if stored in _FLOATS else next((p.dtype for p in model.parameters() if p.dtype in _FLOATS), None)
    return device_of(linear), dtype or torch.get_default_dtype()


def experts_in(computes: torch.dtype, stored: Iterable[torch.dtype]) -> torch.dtype:
    """The type of the experts of a layer, given the types that their files have.

    Factors that were stored in float32 stay so beside a layer that computes in half precision, as in PEFT: rounded,
    they would add as much error again as the layer itself has.
    """
    half = computes in (torch.bfloat16, torch.float16)
    return torch.float32 if half and torch.float32 in stored else computes


def device_of(module: nn.Module) -> torch.device:
    """Where a module computes: offloaded weights rest elsewhere, and accelerate's hooks know where they are wanted."""
    for part in module.modules():
        hook = getattr(part, "_hf_hook", None)
        for each in getattr(hook, "hooks", [hook]):
            if getattr(each, "execution_device", None) is not None:
                return torch.device(each.execution_device)
    tensor = next(chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


def beside(x: Tensor, part: nn.Module) -> Tensor:
    """x where a part's tensors are, for parts that run ahead of the hooks which bring their neighbours' inputs along.

    Tensors that are not in memory say nothing: what fetches them brings the input along, too.
    """
    tensor = next(chain(part.parameters(), part.buffers()), None)
    return x if tensor is None or tensor.is_meta or tensor.device == x.device else x.to(tensor.device)


def place_like(part: nn.Module, neighbour: nn.Module) -> None:
    """Moves a part to where its neighbour's weights are, in their type.

    On the meta device there are no weights yet: then the part's buffers stay where they are, with what they hold.
    """
    weight = next(neighbour.parameters())
    part.to(device=None if weight.is_meta else weight.device, dtype=weight.dtype)
