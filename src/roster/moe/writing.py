"""Writing a model with routed blocks: one folder that reloads to the same bits.

    roster.json          how the model was made: recipe, options, layers, tasks
    model.safetensors    every tensor of the whole model, the blocks' and the rest
    base/                config of the model's own class, generation config, tokenizer where one is known

`roster.json` is written last: a folder without it is not a mixture. What an existing architecture can express is
written as that architecture by `roster.moe.export`, not here. `roster.moe.reading` reads the folder.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from safetensors.torch import save_model

from roster.errors import RosterError
from roster.moe.manifest import Manifest
from roster.saving import MANIFEST, move_in

WEIGHTS = "model.safetensors"


def save(model: Any, folder: Path) -> None:
    """Writes a model whose blocks are routed, whole.

    Args:
        model: what `roster.moe.replace` or `roster.moe.adopt` returned.
        folder: where to; a mixture that is already there is replaced, and kept until the new one is whole.

    Raises:
        RosterError: nothing says how to make its blocks again (a router made by a function, a model cut to one task).
    """
    mixture = model.roster
    if mixture.made is None:
        raise RosterError(
            f"this model cannot be saved as a roster folder: {mixture.unsaved or 'its blocks were changed by hand'}; "
            "roster.moe.export writes it as an existing architecture where one can express it"
        )
    manifest = Manifest(
        made=mixture.made, architecture=type(model).base_class.__name__, base_name=mixture.base_name
    ).model_dump_json(indent=1)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        new = Path(scratch) / "new"
        new.mkdir()
        save_model(model, str(new / WEIGHTS))  # one copy of tensors that are shared
        write_surroundings(model, new / "base")
        (new / MANIFEST).write_text(manifest, encoding="utf-8")
        move_in(new, folder)


def write_surroundings(model: Any, folder: Path) -> None:
    """What a model folder holds besides weights: config, generation config, tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    config = model.config.to_dict()
    config["architectures"] = [type(model).base_class.__name__]
    type(model.config).from_dict(config).save_pretrained(folder)
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.save_pretrained(folder)
    if model.roster.tokenizer is not None:
        model.roster.tokenizer.save_pretrained(folder)
