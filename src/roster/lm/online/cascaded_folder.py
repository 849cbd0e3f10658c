"""A trained cascaded controller as a folder: `roster.json` and `arrays.safetensors`, read without running anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from roster.errors import RosterError
from roster.lm import encode
from roster.lm.online.cascaded import Cascaded
from roster.lm.part import pack, unpack
from roster.saving import MANIFEST, Manifest, read_manifest, recover, writing

_ARRAYS = "arrays.safetensors"
_WEIGHTS, _ENCODER = "weights.", "encoder."


class ControllerManifest(Manifest):
    """`roster.json` of a controller's folder.

    Attributes:
        modes: number of seats of each.
        roles, models: names.
        width, seed: as it was made with.
        encoder: the part, as `roster.lm.part.pack` gives it.
    """

    what: ClassVar[str] = "a controller's folder"

    kind: Literal["lm-controller"] = "lm-controller"
    modes: dict[str, int]
    roles: list[str]
    models: list[str]
    width: int
    seed: int
    encoder: dict[str, Any]


def save_controller(controller: Cascaded, folder: Path | str) -> Path:
    """Writes the folder, in the place of what was there.

    Raises:
        RosterError: the controller is not trained, or the folder cannot be written; what was there is as it was.
    """
    from safetensors.torch import save_file

    if isinstance(controller.reads, nn.LazyLinear):
        raise RosterError("a controller is saved once it is trained: call `fit` first")
    encoder, arrays = pack(controller.encoder, _ENCODER)
    manifest = ControllerManifest(
        modes=dict(zip(controller.modes, controller.seats_M.tolist(), strict=True)),
        roles=list(controller.roles),
        models=list(controller.models),
        width=controller.width,
        seed=controller.seed,
        encoder=encoder,
    )
    text = json.dumps(manifest.model_dump(), indent=1, allow_nan=False)  # before anything is written
    tensors = {_WEIGHTS + name: value.contiguous() for name, value in controller.state_dict().items()}
    tensors |= {name: torch.from_numpy(value.copy()) for name, value in arrays.items()}
    with writing(folder, (MANIFEST, _ARRAYS)) as new:
        save_file(tensors, new / _ARRAYS)
        (new / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return Path(folder)


def load_controller(folder: Path | str) -> Cascaded:
    """The controller in a folder: it chooses what the saved one chose.

    Raises:
        RosterError: there is none, or it cannot be read.
    """
    from safetensors.torch import load

    folder = Path(folder)
    recover(folder)
    content = read_manifest(folder, ControllerManifest)
    try:
        tensors = load((folder / _ARRAYS).read_bytes())
        known = {name: getattr(encode, name) for name in encode.__all__ if name[0].isupper()}
        arrays = {name: value.numpy() for name, value in tensors.items() if name.startswith(_ENCODER)}
        encoder = unpack(content.encoder, arrays, known, _ENCODER)
        made = Cascaded(content.modes, content.roles, content.models, encoder, content.width, content.seed)
        weights = {name.removeprefix(_WEIGHTS): v for name, v in tensors.items() if name.startswith(_WEIGHTS)}
        made.reads = nn.Linear(weights["reads.weight"].shape[1], content.width)
        made.load_state_dict(weights)
        return made
    except RosterError as error:
        raise RosterError(f"controller {str(folder)!r}: {error}") from None
    except Exception as error:
        # Whatever a damaged file provokes, the user can only mend the file.
        raise RosterError(f"controller {str(folder)!r} is damaged: {type(error).__name__}: {error}") from None
