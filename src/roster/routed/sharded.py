"""Routed models whose tensors are spread over processes: what can be gathered is, what cannot is refused by name."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor

from roster.errors import RosterError
from roster.library.fingerprint import whole


def gathered(model: Any) -> dict[str, Tensor] | None:
    """The whole tensors of a model that FSDP2 has sharded, by name; None for a model that is whole.

    Every process of the model's mesh must call this; each gets the whole.
    """
    state = model.state_dict(keep_vars=True)
    if not any(isinstance(tensor, DTensor) for tensor in state.values()):
        return None
    # What several names share (tied embeddings) is gathered once, and still shared.
    found = {id(tensor): whole(tensor.detach()) for tensor in state.values()}
    return {name: found[id(tensor)] for name, tensor in state.items()}


def check_whole_layers(model: Any) -> None:
    """RosterError for a model that transformers has split within its layers (tensor parallelism)."""
    if getattr(model, "_tp_size", None) not in (None, 1):
        raise RosterError(
            "this model is split within its layers (tp_plan=): roster adds to whole layers; load it without tp_plan "
            "and shard it with FSDP2 (torch.distributed.fsdp.fully_shard), or let an engine such as vLLM split it"
        )
