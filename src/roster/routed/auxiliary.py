"""Auxiliary losses: what balance parts ask to add to a training loss, in the measure in which the trainer counts it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def add_losses(
    output: Any, losses: Mapping[str, Tensor], labels: Tensor | None, num_items_in_batch: Tensor | int | None
) -> None:
    """Puts the sum of the losses into a model's output as `aux_loss`, and into its `loss` where it has one.

    Args:
        output: a transformers model's output.
        losses: by site.
        labels: of this call, -100 where none.
        num_items_in_batch: of the whole batch, when this call holds a part of it (gradients are accumulated, or other
            processes hold the rest): the call's loss is then its share of the batch's, and so must the losses' be.
    """
    first = next(iter(losses.values()))
    total = sum((each.to(first) for each in losses.values()), start=first.new_zeros(()))
    output["aux_loss"] = total
    if getattr(output, "loss", None) is None:
        return
    if num_items_in_batch is not None and labels is not None:
        total = total * (labels != -100).sum().to(total) / num_items_in_batch
    output["loss"] = output.loss + total.to(output.loss)
