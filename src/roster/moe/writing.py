"""Writing a model with routed blocks: one folder that reloads to the same bits.

    roster.json          how the model was made: recipe, options, layers, tasks
    model.safetensors    every tensor of the whole model, the blocks' and the rest; or shards of it with an index
    base/                config of the model's own class, generation config, tokenizer where one is known

What an existing architecture can express is written as that architecture by `roster.moe.export`, not here.
`roster.moe.reading` reads the folder; how it is swapped in whole is `roster.saving`'s business.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate.utils.modeling import get_state_dict_offloaded_model
from torch import Tensor

from roster.errors import RosterError
from roster.moe.manifest import BlockManifest
from roster.routed.writing import MIXTURE_ENTRIES, write_tokenizer
from roster.saving import MANIFEST, Wanted, writing
from roster.tensors import INDEX, write_tensors

BASE = "base"


def save(model: Any, folder: Path, wanted: Wanted = Wanted()) -> None:  # noqa: B008
    """Writes a model whose blocks are routed, whole.

    Args:
        model: what `roster.moe.replace` or `roster.moe.adopt` returned.
        folder: where to; a mixture that is already there is replaced, and kept until the new one is whole.
        wanted: what else the caller asks for; there is no base apart from the model.

    Raises:
        RosterError: nothing says how to make its blocks again (a router made by a function, a model cut to one task).
    """
    manifest = manifest_of(model).model_dump_json(indent=1)
    state = whole_state(model) if wanted.state is None else wanted.state
    with writing(folder, (*MIXTURE_ENTRIES, f"model.safetensors{INDEX}")) as new:
        write_tensors(state, new, "model", wanted.max_shard_size)
        write_surroundings(model, new / BASE)
        write_tokenizer(model, new)
        (new / MANIFEST).write_text(manifest, encoding="utf-8")


def manifest_of(model: Any) -> BlockManifest:
    """What the folder of a model says of it; RosterError where nothing says how to make its blocks again."""
    mixture = model.roster
    if mixture.made is None:
        raise RosterError(
            f"this model cannot be saved as a roster folder: {mixture.unsaved or 'its blocks were changed by hand'}; "
            "roster.moe.export writes it as an existing architecture where one can express it"
        )
    return BlockManifest(made=mixture.made, architecture=type(model).base_class.__name__, base_name=mixture.base_name)


def whole_state(model: Any) -> Mapping[str, Tensor]:
    """The model's tensors by name, those that accelerate has offloaded included."""
    state: Mapping[str, Tensor] = model.state_dict()
    if any(tensor.is_meta for tensor in state.values()):
        state = get_state_dict_offloaded_model(model)
    return state


def write_surroundings(model: Any, folder: Path) -> None:
    """What a model folder holds besides weights: config, generation config, tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    config = model.config.to_dict()
    config["architectures"] = [type(model).base_class.__name__]
    type(model.config).from_dict(config).save_pretrained(folder)
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.save_pretrained(folder)
    write_tokenizer(model, folder)
