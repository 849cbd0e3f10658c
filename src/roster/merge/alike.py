"""Whether models have the same tensors, of one type, by their headers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from roster.errors import RosterError
from roster.merge.names import is_buffer
from roster.weights import Operand, Source


def check_alike(models: Mapping[str, Source]) -> None:
    """Raises RosterError on the first tensor that one of the models has and the first has not, or the other way."""
    first = next(iter(models))
    expected = {name for name in models[first].specs if not is_buffer(name)}
    for model, source in models.items():
        names = {name for name in source.specs if not is_buffer(name)}
        for name in sorted(names ^ expected):
            owner, other = (model, first) if name in names else (first, model)
            raise RosterError(f"{owner!r} has the tensor {name!r}, and {other!r} has not{why_not(name)}")


def why_not(name: str) -> str:
    """What it looks like when a model lacks a tensor, as the end of a message."""
    if "lm_head" in name or "embed_out" in name:
        return ": one ties its head to its embeddings, the other does not; untie it first (tie_word_embeddings)"
    return ": they are not of one architecture"


def one_dtype(name: str, operands: Sequence[Operand]) -> torch.dtype:
    """The type of a tensor in all models; RosterError where they differ."""
    dtypes = {operand.spec.dtype: operand.source.name for operand in operands}
    if len(dtypes) > 1:
        listed = ", ".join(f"{str(each).removeprefix('torch.')} in {model!r}" for each, model in dtypes.items())
        raise RosterError(f"tensor {name!r} is {listed}: say which type the result has (dtype, --dtype)")
    return next(iter(dtypes))
