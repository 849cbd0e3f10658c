"""A source as a model of transformers in memory, whole, in float32: for what needs gradients.

All other work on weights goes piece by piece; whoever loads a model whole says beforehand how much memory it takes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from roster.errors import RosterError
from roster.weights.source import Source, folder_of


def load_whole(source: Source) -> Any:
    """A causal language model with a source's weights, ready to answer.

    Raises:
        RosterError: its config names no causal language model, or its tensors are not that model's parameters.
    """
    model = _empty(source)
    known = dict(model.named_parameters(remove_duplicate=False))
    state = {}
    for name, spec in source.specs.items():
        if name in known and spec.dtype.is_floating_point:
            state[name] = source.read(name, 0, spec.numel).view(spec.shape).float()
    tied = {id(each) for name, each in known.items() if name in state}
    missing = [name for name, each in known.items() if name not in state and id(each) not in tied]
    if missing:
        raise RosterError(
            f"{source.name!r} has no tensor {missing[0]!r}, which {type(model).__name__} asks for: its weights are "
            "stored under other names than the model's, and cannot be followed one by one"
        )
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    return model.requires_grad_(False).eval()


def parameter_names(source: Source) -> dict[str, str]:
    """Of each tensor that is a parameter of the model: the parameter's first name (another one where it is tied)."""
    model = _empty(source)
    first = {id(each): name for name, each in model.named_parameters()}
    every = model.named_parameters(remove_duplicate=False)
    return {name: first[id(each)] for name, each in every if name in source.specs}


def linear_layers(source: Source) -> dict[str, tuple[int, int]]:
    """(out_features, in_features) of each linear layer of the model, by its name."""
    layers = ((name, each) for name, each in _empty(source).named_modules() if isinstance(each, torch.nn.Linear))
    return {name: (each.out_features, each.in_features) for name, each in layers}


def check_memory(needed: int, what: str) -> None:
    """Raises RosterError when more bytes are needed than are free; says nothing where that cannot be known."""
    free = _free()
    if free is not None and needed > free:
        raise RosterError(f"{what} holds a model in memory, whole: it needs {needed:,} bytes, and {free:,} are free")


def _free() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)


def _empty(source: Source) -> Any:
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = folder_of(source)
    if folder is None or not (folder / "config.json").is_file():
        raise RosterError(f"{source.name!r} has no config.json, so that it cannot be asked anything")
    try:
        with init_empty_weights(include_buffers=False), torch.no_grad():
            model: Any = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(str(folder)))
    except (ValueError, OSError) as error:
        line = str(error).splitlines()[0]
        raise RosterError(f"{source.name!r} is no causal language model of transformers: {line}") from None
    model.tie_weights()  # parameters that are made empty are each their own
    return model
