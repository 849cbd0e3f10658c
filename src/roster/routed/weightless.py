"""Making a model without memory for its weights, which are about to be read from a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.utils import swap_tensors

_REGISTER = nn.Module.register_parameter


@contextmanager
def without_weights() -> Iterator[None]:
    """Every parameter that is registered in the with-block gives its memory back and is left on the meta device.

    Buffers keep what they hold. Parameters stay the objects that they were, so that those that several modules share
    are still shared: accelerate's `init_empty_weights`, which does the same with new objects, would make them two.
    """
    register = nn.Module.register_parameter

    def register_empty(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        register(self, name, param)
        if param is not None and not param.is_meta:
            swap_tensors(param, nn.Parameter(param.to("meta"), requires_grad=param.requires_grad))

    nn.Module.register_parameter = register_empty  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


@contextmanager
def with_weights() -> Iterator[None]:
    """Within a block of `without_weights`: parameters that are registered here keep what they hold, to compute with."""
    register = nn.Module.register_parameter
    nn.Module.register_parameter = _REGISTER  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
