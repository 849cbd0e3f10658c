"""Fingerprints of base models: enough of every tensor to tell one base from another, whatever precision it is read in.

A fingerprint is a table, tensor by tensor, so that a quantised model can still be held against it by what is not
quantised (norms, embeddings), and an error can name what differs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from roster.errors import RosterError

_SAMPLE = 4096


def fingerprint(
    model: nn.Module, skip: Callable[[str], bool] | Collection[str] = (), state: Mapping[str, Tensor] | None = None
) -> dict[str, str]:
    """16 hex digits per floating parameter, over its name, shape and up to 4,096 evenly spaced values in bfloat16.

    Rounding to bfloat16 first makes a float32 and a bfloat16 load of one checkpoint agree. A float16 load agrees only
    where no value falls outside float16's range.

    Args:
        model: the base; quantised tensors and those that are not in memory (meta device) are left out. Tied weights
            appear under each of their names.
        skip: names to leave out, or what says of a name whether to.
        state: tensors to read instead of the model's own, by name (gathered from a sharded model).
    """
    left_out = skip if callable(skip) else set(skip).__contains__
    named = dict(model.named_parameters(remove_duplicate=False))
    tensors = {name: tensor if state is None else state.get(name, tensor) for name, tensor in named.items()}
    return {n: _hash(n, whole(tensor)) for n, tensor in tensors.items() if not left_out(n) and _readable(tensor)}


def is_whole(model: nn.Module) -> bool:
    """Whether a fingerprint covers every parameter: none is quantised, none is out of memory."""
    return all(_readable(parameter) for parameter in model.parameters())


def digest(table: Mapping[str, str]) -> str:
    """One SHA-256 over a fingerprint."""
    return hashlib.sha256("\n".join(f"{name} {table[name]}" for name in sorted(table)).encode()).hexdigest()


def check_same_base(recorded: Mapping[str, str], model: nn.Module, what: str) -> None:
    """Raises RosterError when a model is not the recorded base.

    What the model has in quantised form cannot be compared and is passed over; at least one tensor must be compared.

    Args:
        recorded: a fingerprint.
        model: the base to hold against it.
        what: what was made for the recorded base, for the message.
    """
    actual = fingerprint(model)
    shared = [name for name in recorded if name in actual]
    if not shared:
        why = "they have other names" if actual else "all are quantised or not in memory"
        raise RosterError(f"{what} was made for another base: no tensor of this model can be compared, {why}")
    missing = next((name for name in recorded if name not in actual), None)
    if missing is not None and is_whole(model):
        raise RosterError(f"{what} was made for another base: this model has no tensor {missing!r}")
    for name in shared:
        if recorded[name] != actual[name]:
            half = model.get_parameter(name).dtype == torch.float16
            hint = "; float16 rounds small values away: load the base in bfloat16 or float32" if half else ""
            raise RosterError(
                f"{what} was made for another base: tensor {name!r} hashes to {actual[name]}, not "
                f"{recorded[name]}{hint}"
            )


def whole(tensor: Tensor) -> Tensor:
    """A tensor that is spread over processes, gathered: all of them must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _readable(tensor: Tensor) -> bool:
    # Quantised tensors are subclasses that claim a floating type; detaching sheds nn.Parameter.
    plain = type(tensor.detach()) in (Tensor, DTensor)
    return (
        plain
        and tensor.device.type != "meta"
        and tensor.dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    )


def _hash(name: str, tensor: Tensor) -> str:
    flat = tensor.detach().reshape(-1)
    step = max(1, -(-flat.numel() // _SAMPLE))
    sample = flat[::step].to("cpu", torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes()
    return hashlib.sha256(f"{name} {tuple(tensor.shape)} ".encode() + sample).hexdigest()[:16]
