"""Whether an adapter fits a model: every tensor has its linear layer, of the right size.

Shape legend: R rank, I in_features, O out_features.
"""

from __future__ import annotations

from torch import nn
from transformers.pytorch_utils import Conv1D

from roster.errors import RosterError, nearest
from roster.library.adapter import Adapter
from roster.library.reading import WEIGHTS


def check_fits(adapter: Adapter, model: nn.Module) -> None:
    """Raises RosterError naming the file, the tensor and both shapes, or the nearest module names."""
    where = str(adapter.path / WEIGHTS) if adapter.path is not None else f"adapter {adapter.name!r}"
    known = dict(model.named_modules())
    for name, update in adapter.modules.items():
        if name not in known:
            linears = [each for each, module in known.items() if linear_size(module) is not None]
            raise RosterError(f"{where}: the model has no module {name!r}; {nearest(name, linears)}")
        size = linear_size(known[name])
        if size is None:
            raise RosterError(f"{where}: {name!r} is a {type(known[name]).__name__}, not a linear layer")
        R = update.A_RD.shape[0]
        for factor, got, expected in (
            ("lora_A", list(update.A_RD.shape), [R, size[0]]),
            ("lora_B", list(update.B_OR.shape), [size[1], R]),
        ):
            if got != expected:
                raise RosterError(f"{where}: {factor} of {name!r} is {got}, but the model needs {expected}")


def linear_size(module: nn.Module) -> tuple[int, int] | None:
    """(in_features, out_features) of a linear layer of any kind; None for what is none.

    GPT-2's `Conv1D` stores its weight the other way round; quantised layers keep their features as attributes.
    """
    if isinstance(module, Conv1D):
        return module.weight.shape[0], module.weight.shape[1]
    if isinstance(module, nn.Linear) or (hasattr(module, "in_features") and hasattr(module, "out_features")):
        return module.in_features, module.out_features
    return None
