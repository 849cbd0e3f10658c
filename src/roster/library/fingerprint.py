"""Fingerprints of base models: enough of every tensor to tell one base from another, whatever precision it is read in.

A fingerprint is a table, tensor by tensor, so that a quantised model can still be held against it by what is not
quantised (norms, embeddings), and an error can name what differs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from roster.errors import RosterError

_SAMPLE = 4096


def fingerprint(model: nn.Module, skip: Callable[[str], bool] = lambda name: False) -> dict[str, str]:
    """16 hex digits per floating parameter, over its name, shape and up to 4,096 evenly spaced values in bfloat16.

    Rounding to bfloat16 first makes a float32 and a bfloat16 load of one checkpoint agree.

    Args:
        model: the base; quantised tensors and those that are not in memory (meta device) are left out.
        skip: names to leave out.
    """
    table = {}
    for name, tensor in model.named_parameters(remove_duplicate=False):
        if skip(name) or tensor.device.type == "meta" or not _plain_float(tensor):
            continue
        table[name] = _hash(name, tensor)
    return table


def digest(table: Mapping[str, str]) -> str:
    """One SHA-256 over a fingerprint."""
    return hashlib.sha256("\n".join(f"{name} {table[name]}" for name in sorted(table)).encode()).hexdigest()


def check_same_base(recorded: Mapping[str, str], model: nn.Module, what: str) -> None:
    """Raises RosterError when a model is not the recorded base.

    Args:
        recorded: a fingerprint.
        model: the base to hold against it.
        what: what was made for the recorded base, for the message.
    """
    actual = fingerprint(model)
    shared = [name for name in recorded if name in actual]
    if not shared:
        raise RosterError(f"{what} was made for another base: no tensor of this model is named like one of that")
    for name in shared:
        if recorded[name] != actual[name]:
            raise RosterError(
                f"{what} was made for another base: tensor {name!r} hashes to {actual[name]}, not {recorded[name]}"
            )


def _plain_float(tensor: Tensor) -> bool:
    return tensor.dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def _hash(name: str, tensor: Tensor) -> str:
    flat = tensor.detach().reshape(-1)
    step = max(1, -(-flat.numel() // _SAMPLE))
    sample = flat[::step].to("cpu", torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes()
    return hashlib.sha256(f"{name} {tuple(tensor.shape)} ".encode() + sample).hexdigest()[:16]
