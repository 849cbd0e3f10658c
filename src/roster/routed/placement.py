"""Where a part that roster adds is placed: the device and the type in which its neighbour computes."""

from __future__ import annotations

import torch
from torch import nn


def computes_in(linear: nn.Module, model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Where a layer computes, and in what: not where its weights rest when they are offloaded or quantised."""
    dtype = linear.weight.dtype if linear.weight.dtype.is_floating_point else model.dtype
    return device_of(linear), dtype


def device_of(module: nn.Module) -> torch.device:
    """Where a module computes: offloaded weights rest elsewhere, and accelerate's hooks know where they are wanted."""
    for part in module.modules():
        hook = getattr(part, "_hf_hook", None)
        for each in getattr(hook, "hooks", [hook]):
            if getattr(each, "execution_device", None) is not None:
                return torch.device(each.execution_device)
    return next(module.parameters()).device


def place_like(part: nn.Module, neighbour: nn.Module) -> None:
    """Moves a part to where its neighbour's weights are, in their type.

    On the meta device there are no weights yet: then the part's buffers stay where they are, with what they hold.
    """
    weight = next(neighbour.parameters())
    part.to(device=None if weight.is_meta else weight.device, dtype=weight.dtype)
