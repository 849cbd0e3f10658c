"""Turning a transformers model into a routed one, in place, and back into what it was."""

from __future__ import annotations

from typing import Any

from accelerate.hooks import add_hook_to_module, remove_hook_from_module
from torch import nn

from roster.routed.running import CHILD


def become(model: nn.Module, cls: type, mixture: nn.Module) -> None:
    """Changes the model's class, in place; offloading hooks hold on to the old `forward`, so they are put on anew."""
    hook = getattr(model, "_hf_hook", None)
    if hook is not None:
        remove_hook_from_module(model)
    if getattr(model.__dict__.get("forward"), "__func__", None) is type(model).forward:
        # What accelerate leaves behind: the old class's forward on the object itself, where it would hide the new one.
        del model.forward
    model.__class__ = cls
    model.add_module(CHILD, mixture)
    if hook is not None:
        add_hook_to_module(model, hook)


def detach(model: Any) -> nn.Module:
    """Takes everything that `attach` added off the model again; returns it as the plain base that it was."""
    for _, module in list(model.named_modules()):
        if CHILD not in module._modules:
            continue
        child = module._modules.pop(CHILD)
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key, hook in list(hooks.items()):
                if getattr(hook, "__self__", None) is child:
                    hooks.pop(key)
                    module._forward_pre_hooks_with_kwargs.pop(key, None)
    base: nn.Module = model
    base.__class__ = type(model).base_class
    return base
