"""DoRA: an update with a magnitude per row, which means something on the weights of its base only.

Equation: y = b + m / |W + s B A| * (W + s B A) x, |.| the norm of each row, b the base's bias; so with
    c = m / |W + s B A| the layer's output y0 = W x + b becomes y0 + (c - 1) * (y0 - b) + s (c B) A x.
Shapes: m, c [O]; the norms are computed once, when the update meets its layer.
Trains: nothing: the row scale is that of the stored weights.
Siblings: plain LoRA has c = 1.
Source: Liu et al., 2024, "DoRA: Weight-Decomposed Low-Rank Adaptation", arXiv:2402.09353; equal to PEFT's (tests).
Differences: the norm is taken in float32 whatever the base computes in.

Shape legend: R rank, I in_features, O out_features.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from roster.errors import RosterError
from roster.library.adapter import LowRank, Magnitude, Rescaled, Vector
from roster.library.fits import linear_size
from roster.library.folder import Library
from roster.library.ia3 import gain_of


def on_layer(update: LowRank, layer: nn.Module, name: str) -> LowRank:
    """An update on its layer: of one with a magnitude, the row scale beside the update that is left of it.

    Args:
        update: any.
        layer: the base's linear layer.
        name: of the layer, for messages.

    Raises:
        RosterError: the layer's weights are quantised or not in memory, or a row of the sum is zero.
    """
    if isinstance(update, Vector):
        return _vector_on(update, layer, name)
    if not isinstance(update, Magnitude):
        return update
    V_OI = plain_weight(layer, name) + update.scale * (update.B_OR.float() @ update.A_RD.float())
    norm_O = torch.linalg.vector_norm(V_OI, dim=1)
    if bool((norm_O == 0).any()):
        raise RosterError(f"DoRA divides by the norms of rows of {name!r}, one of which is zero")
    scale_O = update.magnitude_O.float() / norm_O
    B_OR = (scale_O[:, None] * update.B_OR.float()).to(torch.promote_types(update.B_OR.dtype, torch.float32))
    return Rescaled(update.A_RD, B_OR, update.scale, scale_O - 1)


def _vector_on(update: Vector, layer: nn.Module, name: str) -> Rescaled:
    """(IA)3's vector on its layer. To read other inputs, the layer is asked once more, so it must be in memory."""
    width, out = linear_size(layer) or (0, 0)
    gain, A_RD, B_OR = gain_of(update), update.A_RD.new_zeros(0, width), update.B_OR.new_zeros(out, 0)
    if not update.reads_input:
        return Rescaled(A_RD, B_OR, 1.0, gain, with_bias=True)
    if any(each.device.type == "meta" for each in layer.parameters()):
        raise RosterError(f"(IA)3 rescales what {name!r} reads, whose weights are not in memory: load the base in full")
    return Rescaled(A_RD, B_OR, 1.0, gain.new_zeros(out), gain_I=gain)


def layer_of(layer: nn.Module, x: Tensor) -> Tensor:
    """What a linear layer of any kind makes of x, without its bias and past its hooks."""
    y: Tensor = type(layer).forward(layer, x)
    bias_O: Tensor | None = getattr(layer, "bias", None)
    return y if bias_O is None else y - bias_O.to(y)


def on_base(library: Library, model: nn.Module) -> Library:
    """The library with every DoRA update on its layer of the base."""
    if not has_magnitudes(library):
        return library
    made = {}
    for name, adapter in library.items():
        modules = {each: on_layer(update, model.get_submodule(each), each) for each, update in adapter.modules.items()}
        made[name] = replace(adapter, modules=modules)
    return Library(made)


def has_magnitudes(library: Library) -> bool:
    """Whether any expert is a DoRA or an (IA)3, whose updates mean something on their base only."""
    return any(
        isinstance(update, Magnitude | Vector) for adapter in library.values() for update in adapter.modules.values()
    )


def check_plain(update: LowRank, what: str) -> LowRank:
    """RosterError for an update that is more than `s B A`.

    Args:
        update: any.
        what: needs plain updates, for the message.
    """
    if isinstance(update, Vector):
        raise RosterError(f"{what} reads updates of the form B A, and an (IA)3 adapter rescales instead: take LoRAs")
    if isinstance(update, Magnitude | Rescaled):
        raise RosterError(
            f"{what} reads updates of the form B A, and a DoRA rescales the base's rows besides: take adapters without "
            "use_dora"
        )
    return update


def plain_weight(layer: nn.Module, name: str) -> Tensor:
    """A linear layer's weight [O, I] on the CPU in float32.

    Raises:
        RosterError: it is quantised or not in memory.
    """
    weight: Any = layer.weight
    if weight.device.type == "meta" or not weight.dtype.is_floating_point or weight.dim() != 2:
        raise RosterError(
            f"DoRA needs the weights of {name!r}, which are quantised or not in memory: load the base in full, or "
            "merge the adapter into it"
        )
    weight_OI: Tensor = weight.detach().float().cpu()
    return weight_OI.T if isinstance(layer, Conv1D) else weight_OI
