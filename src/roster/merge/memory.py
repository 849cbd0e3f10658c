"""Merging tensors in memory, by the kernels that merge checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from roster.errors import RosterError, nearest
from roster.merge.methods import find_method
from roster.weights import apply


def merge_tensors(
    method: str,
    tensors: Sequence[Tensor],
    base: Tensor | None = None,
    *,
    name: str = "",
    learned: Sequence[Tensor] | None = None,
    **settings: Any,
) -> Tensor:
    """One tensor out of several.

    Args:
        method: its slug.
        tensors: one of each model, all of one shape.
        base: the base's, for methods that have one.
        name: the tensor's, where random draws should be those of a checkpoint's tensor of this name.
        learned: what a method that learns from data knows of each model: its Fisher information (`fisher`), the Gram
            matrix of what the layer reads (`regmean`), its coefficient for each part (`adamerging`, `atlas`).
        settings: as in a config (`lambda` through `**{"lambda": ...}`); a setting per model is a list, or one number
            for all.

    Returns:
        float32 (float64 where one of the tensors is), of the same shape.

    Raises:
        RosterError: an unknown or missing setting, shapes that differ, a base that is missing, nothing learned for a
            method that needs it, or something for one that does not.
    """
    found = find_method(method)
    found.check_count(len(tensors), base is not None)
    for key in settings:
        if key not in found.settings:
            raise RosterError(f"method {method!r} has no parameter {key!r}: {nearest(key, found.settings)}")
    values: dict[str, Any] = {}
    for key, setting in found.settings.items():
        value = settings.get(key, setting.default)
        if value is None:
            raise RosterError(f"method {method!r} needs the parameter {key!r}")
        if setting.per_model:
            each = list(value) if isinstance(value, Sequence) else [value] * len(tensors)
            if len(each) != len(tensors):
                raise RosterError(f"{key} has {len(each)} values for {len(tensors)} models")
            values[key] = tuple(setting.check(one) for one in each)
        else:
            values[key] = setting.check(value)
    if (found.learner is None) != (learned is None) or len(learned or tensors) != len(tensors):
        need = "takes no `learned`" if found.learner is None else "needs `learned`, one for each model"
        raise RosterError(f"method {method!r} {need}")
    operands = [*([base] if base is not None else []), *tensors, *([] if found.takes else learned or [])]
    if any(each.shape != operands[0].shape for each in operands):
        raise RosterError(f"tensors of different shapes: {[tuple(each.shape) for each in operands]}")
    common = found.shares(len(tensors)) if found.shares else None
    return apply(found.make(values, name, tuple(tensors[0].shape), common, learned), operands)
