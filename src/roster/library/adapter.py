"""What an expert is in memory: the low-rank updates of a base's linear layers, or a soft prompt, and its origin.

Reading and writing are in `reading.py` and `writing.py`, fitting to a model in `fits.py`.

Shape legend: R rank, D in_features, O out_features, V virtual tokens (whose D is the width of embeddings).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from torch import Tensor

from roster.shelf.card import Card


@dataclass(frozen=True)
class LowRank:
    """The update of one linear layer, `delta W = scale * B A`, of the shape [O, D] that `nn.Linear` has.

    Attributes:
        A_RD: [R, D].
        B_OR: [O, R].
        scale: alpha / R, or alpha / sqrt(R) for rsLoRA; patterns resolved.
    """

    A_RD: Tensor
    B_OR: Tensor
    scale: float


@dataclass(frozen=True)
class Magnitude(LowRank):
    """DoRA's update as a file holds it; what it does depends on the base's weights (see `dora.py`).

    Attributes:
        magnitude_O: the norms [O] that the rows of W + scale * B A are brought to.
    """

    magnitude_O: Tensor


@dataclass(frozen=True)
class Vector(LowRank):
    """(IA)3's: it has no factors (their rank is zero), and rescales a layer's output or input (see `ia3.py`).

    Attributes:
        vector_X: [O], or [I] where it rescales the input.
        reads_input: which of them.
    """

    vector_X: Tensor
    reads_input: bool


@dataclass(frozen=True)
class Rescaled(LowRank):
    """DoRA's or (IA)3's on its base: the layer's output is rescaled row by row, and `scale * B A` is added.

    Attributes:
        gain_O: the row scale less one, [O].
        with_bias: whether the layer's bias is rescaled, too.
        gain_I: what rescales the input, less one, [I]; None where it is as it was.
    """

    gain_O: Tensor
    with_bias: bool = False
    gain_I: Tensor | None = None


@dataclass(frozen=True)
class Stored(LowRank):
    """An update that is to stay in its file, which is mapped into memory: it is read when it is used."""


@dataclass(frozen=True)
class Adapter:
    """One expert.

    Attributes:
        name: of its folder.
        path: its folder; None for one that was made in memory.
        modules: updates by the name of the base's module, e.g. "model.layers.0.self_attn.q_proj".
        card: what it is for.
        config: PEFT's own.
        weights_hash: SHA-256 of the updates' content, whatever the file's layout.
        prompt_VD: the virtual tokens of a soft prompt, which updates no module; None for every other kind.
    """

    name: str
    path: Path | None
    modules: Mapping[str, LowRank]
    card: Card
    config: peft.LoraConfig | peft.IA3Config | peft.PromptTuningConfig | peft.PromptEncoderConfig
    weights_hash: str
    prompt_VD: Tensor | None = None


def hash_modules(modules: Mapping[str, LowRank], prompt_VD: Tensor | None = None) -> str:
    """SHA-256 over names, shapes, types, values and scales of all updates, in the order of the names, and a prompt."""
    digest = hashlib.sha256()
    for name in sorted(modules):
        update = modules[name]
        digest.update(f"{name} {update.scale!r}".encode())
        magnitude = (update.magnitude_O,) if isinstance(update, Magnitude) else ()
        magnitude = (update.vector_X,) if isinstance(update, Vector) else magnitude
        for tensor in (update.A_RD, update.B_OR, *magnitude):
            _add(digest, tensor)
    if prompt_VD is not None:
        _add(digest, prompt_VD)
    return digest.hexdigest()


def _add(digest: Any, tensor: Tensor) -> None:
    digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
    digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
