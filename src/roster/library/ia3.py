"""(IA)3 adapters (Liu et al., 2022, arXiv:2205.05638) as PEFT writes them: a vector per layer that rescales what it
says, or what it reads.

Equation: y = l * (W x + b), or y = W (l * x) + b for a layer of `feedforward_modules`. In a mixture, with gates g_e:
    y = (1 + sum_e g_e (l_e - 1)) * (W x + b), and y = W ((1 + sum_e g_e (l_e - 1)) * x) + b.

Shape legend: I in_features, O out_features.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import peft
import torch
from torch import Tensor

from roster.errors import RosterError, nearest
from roster.library.adapter import Vector

KIND = "IA3"
_KEY = re.compile(r"^(?:base_model\.model\.)?(?P<module>.+)\.ia3_l$")


def ia3_config(raw: Mapping[str, Any], where: str) -> peft.IA3Config:
    """The config; RosterError for what roster does not read, and for fields that the installed PEFT does not know."""
    if raw.get("modules_to_save"):
        raise RosterError(
            f"{where}: modules_to_save={raw['modules_to_save']!r} is not supported: it carries whole "
            "modules of its own, of which a mixture can have only one; train with modules_to_save=None"
        )
    known = {field.name for field in fields(peft.IA3Config) if field.init}
    for name in sorted(raw.keys() - known - {"peft_type"}):
        if raw[name]:
            raise RosterError(f"{where}: unknown field {name!r} = {raw[name]!r}: {nearest(name, known)}")
    try:
        return peft.IA3Config(**{name: value for name, value in raw.items() if name in known - {"peft_type"}})
    except (TypeError, ValueError) as error:
        raise RosterError(f"{where}: {error}") from None


def ia3_modules(tensors: Mapping[str, Tensor], where: str) -> dict[str, Vector]:
    """The vectors by module. A layer's file says by its shape on which side it is rescaled: [O, 1], or [1, I].

    Raises:
        RosterError: a tensor that is none of (IA)3's.
    """
    found = {}
    for key, tensor in tensors.items():
        match = _KEY.match(key)
        if match is None or tensor.dim() != 2 or 1 not in tensor.shape:
            raise RosterError(
                f"{where}: tensor {key!r} {list(tensor.shape)} is none of an (IA)3 adapter, which has one "
                "vector ia3_l of [out_features, 1] or [1, in_features] per linear layer"
            )
        if match["module"] in found:
            raise RosterError(f"{where}: tensor {key!r} is there twice, with and without 'base_model.model.'")
        reads_input = tensor.shape[0] == 1
        width, out = (tensor.numel(), 0) if reads_input else (0, tensor.numel())
        found[match["module"]] = Vector(
            tensor.new_zeros(0, width), tensor.new_zeros(out, 0), 1.0, tensor.flatten(), reads_input
        )
    return found


def ia3_tensors(modules: Mapping[str, Vector]) -> dict[str, Tensor]:
    """The tensors of a file, as PEFT names and shapes them."""
    return {
        f"base_model.model.{name}.ia3_l": each.vector_X.detach()
        .cpu()
        .clone()
        .view((1, -1) if each.reads_input else (-1, 1))
        for name, each in modules.items()
    }


def is_vector_of(update: Vector, size: tuple[int, int]) -> bool:
    """Whether a vector is as long as the side of the layer that it rescales; size is (in_features, out_features)."""
    return len(update.vector_X) == size[0 if update.reads_input else 1]


def gain_of(update: Vector) -> Tensor:
    """The vector less one, in float32 at least."""
    return update.vector_X.to(torch.promote_types(update.vector_X.dtype, torch.float32)) - 1
