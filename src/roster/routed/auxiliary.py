"""Auxiliary losses: what balance parts ask to add to a training loss, in the measure in which the trainer counts it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def add_losses(
    output: Any, losses: Mapping[str, Tensor], labels: Tensor | None, num_items_in_batch: Tensor | int | None
) -> Any:
    """A model's output with the sum of the losses as its `aux_loss`, and in its `loss` where it has one.

    Args:
        output: a transformers model's output.
        losses: by site.
        labels: of this call, -100 where none.
        num_items_in_batch: of the whole batch, when this call holds a part of it (gradients are accumulated, or other
            processes hold the rest): the call's loss is then its share of the batch's, and so must the losses' be.
    """
    first = next(iter(losses.values()))
    total = sum((each.to(first) for each in losses.values()), start=first.new_zeros(()))
    if torch.compiler.is_compiling():  # which cannot make a class
        output["aux_loss"] = total
    else:
        output = _with_losses(type(output))(**{**output, "aux_loss": total})  # type: ignore[arg-type]  # classes have a hash
    if getattr(output, "loss", None) is None:
        return output
    if num_items_in_batch is not None and labels is not None:
        total = total * (labels != -100).sum().to(total) / num_items_in_batch
    output["loss"] = output.loss + total.to(output.loss)
    return output


@functools.cache
def _with_losses(kind: type[Any]) -> type[Any]:
    """A class of outputs that has an `aux_loss`: DistributedDataParallel makes an output anew from its fields."""
    if any(field.name == "aux_loss" for field in dataclasses.fields(kind)):
        return kind
    field = ("aux_loss", Any, dataclasses.field(default=None))
    return dataclasses.make_dataclass(kind.__name__, [field], bases=(kind,))
